"""The preset dictionaries of the sales format, by version. A version's bytes never change once a till has them."""

DICTIONARY_1 = b"placeholder"
