"""Merging the metrics pages of several workers."""

from gateway.observe.worker_metrics import merge_pages


def test_a_worker_without_a_page_is_0_in_worker_up_and_nowhere_else() -> None:
    page = b'# HELP a b c\n# TYPE a gauge\na{worker="2"} 5.0\n'
    description = "# HELP {0} x\n# TYPE {0} gauge\n".format("fanway_worker_up").encode()
    up = description + b'fanway_worker_up{worker="2"} 1.0\n'
    assert merge_pages({1: None, 2: page + up}) == page + up + b'fanway_worker_up{worker="1"} 0.0\n'
