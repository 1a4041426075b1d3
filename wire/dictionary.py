"""The preset dictionaries of the sales format, by version. A version's bytes never change once a till has them.

A dictionary holds the words of the schema in the order in which a POS writes them, no product, no person, no number of
anybody's till. Deflate finds nearer matches in fewer bits, so what every receipt has stands last (RFC 1950, 2.2).
"""

from __future__ import annotations

_RARE = (
    '"gift_card","voucher","loyalty_points","prepayment","credit","foreign_cash","other"'
    '"transaction_type":"post_void","transaction_type":"correction","transaction_type":"x_report",'
    '"transaction_type":"deposit","transaction_type":"paid_in","transaction_type":"paid_out",'
    '"transaction_type":"loan","transaction_type":"pickup","transaction_type":"no_sale",'
    '"transaction_type":"exchange","transaction_type":"cancelled","transaction_type":"shift_open",'
    '"flags":["training"],"flags":["offline"],"extensions":{},"customer":{},"note":"",'
    '{"document_id":"","oversize_bytes":,"blake2b":""}{"document_id":"","raw":""}'
    '"cash":{"amount_minor":00000,"tender_type":"cash","counterparty":""}}'
    '"shift":{"opened_at":"","first_receipt_number":1,"last_receipt_number":,"by_type":{"shift_open":{"count":1,'
    '"amount_minor":0},"loan":{"count":1,"amount_minor":},"sale":{"count":,"amount_minor":},"return":{"count":,'
    '"amount_minor":},"cancelled":{"count":,"amount_minor":0},"pickup":{"count":1,"amount_minor":}},"by_tender":{'
    '"sale.cash":{"count":,"amount_minor":},"sale.card":{"count":,"amount_minor":},"sale.qr":{"count":,"amount_minor":},'
    '"return.cash":{"count":,"amount_minor":}},"by_tax":{"sale.vat22":{"count":,"amount_minor":},"sale.vat10":{"count":,'
    '"amount_minor":}},"opening_float_minor":,"expected_cash_minor":,"counted_cash_minor":},'
    '"transaction_type":"shift_close"'
    '"original":{"document_id":"","till_id":"","business_day":"","receipt_number":,"fiscal_sign":""},"reason_code":"",'
    '"transaction_type":"return","kind":"return","tender_type":"qr","amount_minor":,"rrn":"'
    ',"voided":true,"marks":[{"code":"MDEw=","gtin":"","serial":""}],"serials":[""],"lot":"",'
    '"time_zone":"Europe/London","currency":"EUR","time_zone":"Europe/Berlin","currency":"USD","currency":"KZT",'
    '"time_zone":"Asia/Yekaterinburg","time_zone":"Asia/Novosibirsk","+05:00","+07:00","+00:00","rate":"20","vat20"'
    '"tax_id":"vat0","rate":"0","tax_id":"none","tax_id":"vat5","rate":"5","tax_id":"vat7","rate":"7",'
    "Молоко Хлеб Сыр Масло Сахар Вода Пакет Шоколад Печенье Кефир Йогурт Яйцо Колбаса Сок Чай Кофе "
    " г кг мл л шт 100 г 200 г 250 г 350 г 400 г 500 г 1 кг 1 л 2 шт"
)

_EVERY = (
    '"discounts":[{"scope":"line","line_number":1,"kind":"percent","rate":"10","amount_minor":,"promotion_id":""}],'
    '"discounts":[{"scope":"basket","kind":"percent","rate":"5","amount_minor":000,"promotion_id":""}],'
    '"tenders":[{"tender_number":1,"tender_type":"card","amount_minor":0000,"masked_pan":"220000******0000","rrn":"'
    '","auth_code":"'
    '"}],"taxes":[{"tax_id":"vat10","rate":"10","taxable_minor":0000,"amount_minor":000},{"tax_id":"vat22","rate":"22",'
    '"taxable_minor":0000,"amount_minor":000}],"totals":{"gross_minor":0000,"discount_minor":0,"tax_minor":000,'
    '"rounding_minor":0,"total_minor":0000}'
    '},"fiscal":[{"scheme":"ru.ffd","ffd_version":"1.2","document_code":3,"fiscal_document_number":"00000",'
    '"fiscal_sign":"0000000000","fiscal_drive_number":"9900000000000000","register_reg_number":"0000000000000000",'
    '"register_serial":"0000000000","inn":"7700000000","taxation_system":1,"operation_type":1}]}\n'
    '{"v":1,"stream":"","after":,"through":,"digest":"==","task":"1."}\n'
    '{"document_id":"","transaction_type":"sale","till_id":"till-0001","store_id":"","business_day":"2026-","shift_number"'
    ':1,"receipt_number":1,"opened_at":"2026-01-01T10:00:00+03:00","closed_at":"2026-01-01T10:00:00+03:00","time_zone":'
    '"Europe/Moscow","operator":{"operator_id":"","name":""},"currency":"RUB","lines":[{"line_number":1,"item_id":"'
    '","gtin":"460","entry_method":"scanned","name":"'
    '","department":"01","quantity":"1","unit_code":"PCE","unit_price":"100.00","discount_minor":0,"extended_minor":'
    '10000,"taxes":[{"tax_id":"vat22","rate":"22","amount_minor":000}]},{"line_number":2,"item_id":"'
    '","gtin":"200","entry_method":"weighed","name":"'
    '","department":"02","quantity":"0.500","unit_code":"KGM","unit_price":"99.90","extended_minor":0000,"taxes":['
    '{"tax_id":"vat10","rate":"10","amount_minor":000}]},{"line_number":3,"item_id":"'
    '","gtin":"46","entry_method":"scanned","name":"'
    '","department":"03","quantity":"2","unit_code":"PCE","unit_price":"49.99","extended_minor":9998,"taxes":[{"tax_id":'
    '"vat22","rate":"22","amount_minor":1803}]}],"tenders":[{"tender_number":1,"tender_type":"cash","amount_minor":00000,'
    '"tendered_minor":00000,"change_minor":000}],"taxes":[{"tax_id":"vat22","rate":"22","taxable_minor":0000,'
    '"amount_minor":0000}],"totals":{"gross_minor":'
)

DICTIONARY_1 = (_RARE + _EVERY).encode()
