"""Owns the invented assortment: some 2,000 seeded products with names, check-digit GTINs, prices and VAT rates."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

PRODUCTS = 2000
IN_STORE_PREFIX, WEIGHED_PREFIX = "20", "21"
"""GS1 keeps prefixes 20 to 29 for use inside a company: no invented number can be a real product's."""


class Kind(NamedTuple):
    """One kind of goods: what its products have in common; prices in rubles per piece or per kilogram."""

    name_russian: str
    name_english: str
    department: str
    price_from: int
    price_to: int
    vat: int
    sizes: tuple[str, ...] = ()
    weighed: bool = False
    marked: bool = False


class Product(NamedTuple):
    """One product as the till's price file has it."""

    item_id: str
    gtin: str
    name: str
    department: str
    price_minor: int
    unit_price: str
    vat: int
    weighed: bool
    marked: bool


_G, _L = ("200 г", "350 г", "400 г", "500 г", "900 г"), ("0,5 л", "0,93 л", "1 л", "1,5 л")
_SMALL, _COUNT = ("45 г", "80 г", "90 г", "100 г"), ("1 шт", "2 шт", "4 шт", "10 шт")

KINDS = (
    # Departments: 01 dairy, 02 bakery, 03 produce, 04 meat, 05 fish, 06 grocery,
    # 07 sweets, 08 snacks, 09 drinks, 10 household, 11 pets.
    Kind("Молоко 3,2%", "Milk 3.2%", "01", 69, 129, 10, _L, marked=True),
    Kind("Кефир 1%", "Kefir 1%", "01", 59, 109, 10, _L, marked=True),
    Kind("Йогурт клубничный", "Strawberry yoghurt", "01", 35, 95, 10, _SMALL),
    Kind("Творог 5%", "Curd 5%", "01", 79, 189, 10, _G),
    Kind("Сыр полутвёрдый", "Semi-hard cheese", "01", 549, 1290, 10, weighed=True),
    Kind("Масло сливочное 82,5%", "Butter 82.5%", "01", 169, 329, 10, ("180 г", "200 г")),
    Kind("Хлеб ржаной", "Rye bread", "02", 34, 89, 10, ("300 г", "400 г", "650 г")),
    Kind("Батон нарезной", "Sliced loaf", "02", 36, 79, 10, ("350 г", "400 г")),
    Kind("Печенье овсяное", "Oat biscuits", "02", 59, 179, 22, _G),
    Kind("Яблоки", "Apples", "03", 79, 219, 10, weighed=True),
    Kind("Бананы", "Bananas", "03", 99, 169, 10, weighed=True),
    Kind("Картофель", "Potatoes", "03", 29, 79, 10, weighed=True),
    Kind("Помидоры", "Tomatoes", "03", 129, 349, 10, weighed=True),
    Kind("Виноград", "Grapes", "03", 199, 499, 22, weighed=True),
    Kind("Зелень укроп", "Dill", "03", 39, 89, 10, ("50 г", "100 г")),
    Kind("Колбаса варёная", "Cooked sausage", "04", 249, 689, 10, _G),
    Kind("Филе куриное", "Chicken fillet", "04", 329, 549, 10, weighed=True),
    Kind("Фарш домашний", "Minced meat", "04", 219, 459, 10, _G),
    Kind("Сельдь солёная", "Salted herring", "05", 189, 429, 10, weighed=True),
    Kind("Яйцо куриное С1", "Eggs", "01", 89, 169, 10, ("10 шт", "20 шт")),
    Kind("Гречка", "Buckwheat", "06", 49, 139, 10, _G),
    Kind("Рис круглозёрный", "Rice", "06", 69, 169, 10, _G),
    Kind("Макароны", "Pasta", "06", 45, 149, 10, _G),
    Kind("Сахар", "Sugar", "06", 59, 99, 10, ("900 г", "1 кг")),
    Kind("Масло подсолнечное", "Sunflower oil", "06", 109, 199, 10, _L),
    Kind("Чай чёрный", "Black tea", "06", 89, 349, 22, ("25 пак", "100 пак")),
    Kind("Кофе молотый", "Ground coffee", "06", 249, 890, 22, ("100 г", "250 г", "500 г")),
    Kind("Шоколад молочный", "Milk chocolate", "07", 69, 189, 22, _SMALL),
    Kind("Конфеты", "Sweets", "07", 299, 890, 22, weighed=True),
    Kind("Чипсы", "Crisps", "08", 79, 199, 22, _SMALL),
    Kind("Вода питьевая", "Drinking water", "09", 29, 89, 22, _L, marked=True),
    Kind("Сок яблочный", "Apple juice", "09", 79, 199, 22, _L),
    Kind("Лимонад", "Lemonade", "09", 59, 139, 22, _L),
    Kind("Шампунь", "Shampoo", "10", 149, 549, 22, ("250 мл", "400 мл")),
    Kind("Мыло туалетное", "Soap", "10", 35, 129, 22, _SMALL),
    Kind("Порошок стиральный", "Washing powder", "10", 199, 899, 22, ("400 г", "3 кг")),
    Kind("Бумага туалетная", "Toilet paper", "10", 79, 349, 22, ("4 шт", "8 шт")),
    Kind("Батарейки", "Batteries", "10", 99, 499, 22, _COUNT),
    Kind("Пакет-майка", "Carrier bag", "10", 7, 15, 22),
    Kind("Корм для кошек", "Cat food", "11", 29, 119, 22, ("75 г", "85 г")),
)

_HEADS = ("Луг", "Сад", "Яр", "Бор", "Род", "Сев", "Тих", "Бел", "Добр", "Ясн", "Свет", "Рощ")
_TAILS = ("ово", "инка", "ник", "ица", "ок", "ушка", "ень", "ина")
_LATIN_HEADS, _LATIN_TAILS = ("Mill", "Fern", "Oak", "Hill", "Brook"), ("dale", "wick", "ford", "stead", "by")
ENGLISH_SHARE = 0.2


def make_catalogue(rng: Random, products: int = PRODUCTS) -> tuple[Product, ...]:
    """Return an assortment in which the first products are the ones that sell most (see ``pick``)."""
    made = [_product(rng, KINDS[number % len(KINDS)], number) for number in range(products)]
    rng.shuffle(made)
    return tuple(made)


def pick(rng: Random, products: tuple[Product, ...]) -> Product:
    """Draw a product: few sell often, most seldom."""
    return products[int(len(products) * rng.random() ** 2.6)]


def gtin_13(first_twelve_digits: str) -> str:
    """Return the twelve digits with their GS1 check digit."""
    weighted = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(first_twelve_digits))
    return f"{first_twelve_digits}{-weighted % 10}"


def _product(rng: Random, kind: Kind, number: int) -> Product:
    price_minor = rng.randint(kind.price_from, kind.price_to) * 100 + rng.choice((0, 50, 90, 99))
    prefix = WEIGHED_PREFIX if kind.weighed else IN_STORE_PREFIX
    return Product(
        item_id=str(100000 + number),
        gtin=gtin_13(f"{prefix}{rng.randrange(10**5):05d}{number:05d}"),
        name=_name(rng, kind),
        department=kind.department,
        price_minor=price_minor,
        unit_price=f"{price_minor // 100}.{price_minor % 100:02d}",
        vat=kind.vat,
        weighed=kind.weighed,
        marked=kind.marked,
    )


def _name(rng: Random, kind: Kind) -> str:
    size = f" {rng.choice(kind.sizes)}" if kind.sizes else ""
    if rng.random() < ENGLISH_SHARE:
        return f"{kind.name_english} {rng.choice(_LATIN_HEADS)}{rng.choice(_LATIN_TAILS)}"
    return f"{kind.name_russian} {rng.choice(_HEADS)}{rng.choice(_TAILS)}{size}"
