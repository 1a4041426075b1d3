"""The digest chain: equal digests mean the very same documents in the very same order."""

from __future__ import annotations

from hashlib import blake2b

from factories import a_stream

from wire import chain


def test_the_first_digest_comes_from_the_stream_alone():
    """Digest 0 is blake2b-128 of the protocol's name and the stream id."""
    expected = blake2b(b"tillstream/1" + b"A" * 22, digest_size=16).digest()

    assert expected == chain.first("A" * 22)
    assert chain.first(a_stream(1)) != chain.first(a_stream(2))


def test_each_digest_is_over_the_one_before_and_the_bytes():
    """Digest n is blake2b-128 of digest n-1 and document n."""
    first = chain.first(a_stream())

    assert blake2b(first + b"body", digest_size=16).digest() == chain.follow(first, b"body")


def test_following_all_is_following_one_by_one():
    """Any split of the documents into uploads leads to the same digest, and no documents change nothing."""
    first, bodies = chain.first(a_stream()), [b"%d" % number for number in range(9)]
    whole = chain.follow_all(first, bodies)

    assert first == chain.follow_all(first, [])
    for split in range(10):
        assert whole == chain.follow_all(chain.follow_all(first, bodies[:split]), bodies[split:])


def test_order_content_and_number_of_documents_all_count():
    """No swapped, dropped, repeated, joined or altered document leaves the digest as it was."""
    digests = {
        chain.follow_all(chain.first(a_stream()), bodies)
        for bodies in ([b"a", b"b"], [b"b", b"a"], [b"a"], [b"a", b"b", b"b"], [b"ab"], [b"a", b"B"], [b"a", b"", b"b"])
    }

    assert len(digests) == 7
