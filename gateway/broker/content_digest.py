"""A digest of what a publish asks for, kept with the receipt of its idempotency key.

A publish is repeated with the same key and the same content. The same key with other content is a mistake of
the publisher: answered with the first receipt, its message would be lost without notice (`KeyReused`).
"""

from __future__ import annotations

from hashlib import blake2b

import orjson

from gateway.broker.base import Publication

DIGEST_BYTES = 8
"""Of 2^64 digests, two different messages of one key share one by chance in practice never."""


def content_digest(publication: Publication) -> str:
    """Return a digest of the data, tags, exclusions and storage that *publication* asks for, as hexadecimal.

    The order of the keys in maps does not count, nor does the codec in which the data arrived. Neither the
    sender's connection nor the `AckLevel` count: a repetition may have others.
    """
    tags = None if publication.tags is None else dict(publication.tags)
    options = [tags, sorted(publication.exclude), publication.transient]
    digest = blake2b(orjson.dumps(options, option=orjson.OPT_SORT_KEYS), digest_size=DIGEST_BYTES)
    encoded = publication.data.json
    if b"{" in encoded:
        encoded = orjson.dumps(publication.data.value, option=orjson.OPT_SORT_KEYS)
    digest.update(b"\n" + encoded)
    return digest.hexdigest()
