"""Headers to bytes and back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.kafka.packing import HeaderEncoder, Packer, TopicPartitions
from eventml.backends.kafka.wire import DeliveryDecoder, kafka_headers, key_hash
from eventml.records import NO_HEADERS, Delivery, Record

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda name: name != "ce_id")
values = st.binary(max_size=12)
PARTITION = TopicPartition("topic", 3)


def record(headers: Any, **fields: Any) -> Any:
    defaults = {"offset": 7, "value": b"value", "key": None, "timestamp": 1_500, "headers": headers}
    return SimpleNamespace(**(defaults | fields))


def only(decoder: DeliveryDecoder, fetched: Any) -> Delivery:
    """The delivery of one record."""
    [delivery] = decoder.deliveries(PARTITION, [fetched], 0)
    return delivery


@given(st.dictionaries(names, values, max_size=6))
def test_headers_of_any_bytes_survive_decoding_and_encoding(raw: dict[str, bytes]) -> None:
    delivery = only(DeliveryDecoder(), record(list(raw.items())))
    assert dict(kafka_headers(delivery.record.headers)) == raw


@given(st.lists(st.tuples(names, values | st.none()), max_size=5), st.integers(0, 5), st.text(min_size=1))
def test_the_id_is_found_at_any_position(
    headers: list[tuple[str, bytes | None]], position: int, id_: str
) -> None:
    encoded = ("ce_id", id_.encode(errors="surrogatepass"))
    with_id = [*headers[:position], encoded, *headers[position:]]
    decoder = DeliveryDecoder()
    for form in (with_id, tuple(with_id)):  # as the parser makes it, and as a ConsumerRecord holds it
        delivery = only(decoder, record(form))
        assert delivery.record.id.encode(errors="surrogateescape") == encoded[1]
        assert set(delivery.record.headers) == {name for name, _ in headers}


def test_a_record_without_headers_or_id_or_value() -> None:
    decoder = DeliveryDecoder()
    only(decoder, record([("note", b"of another"), ("ce_id", b"foreign")]))
    bare = only(decoder, record([], value=None))
    assert (bare.record.id, bare.record.value) == ("topic/3/7", b"")
    assert bare.record.headers is NO_HEADERS
    assert (bare.partition, bare.offset, bare.timestamp) == (3, 7, 1.5)
    nameless = only(decoder, record([("note", b"x"), ("ce_id", b"")]))
    assert nameless.record.id == "topic/3/7"
    assert nameless.record.headers == {"note": "x"}


def test_records_with_the_same_headers_share_one_mapping() -> None:
    decoder = DeliveryDecoder()
    found = [only(decoder, record([("ce_type", b"t"), ("ce_id", b"%d" % n)], offset=n)) for n in range(3)]
    assert len({id(d.record.headers) for d in found}) == 1
    assert [d.record.id for d in found] == ["0", "1", "2"]


def test_more_headers_than_are_cached_change_nothing() -> None:
    decoder = DeliveryDecoder()
    for number in range(3_000):
        headers = {"traceparent": f"00-{number}"}
        assert only(decoder, record(kafka_headers(headers))).record.headers == headers


def test_large_headers_and_keys_stay_in_no_cache() -> None:
    """Strangers choose how large they are."""
    encoder, decoder, packer = HeaderEncoder(), DeliveryDecoder(), Packer(1_000_000)
    topics = {"t": TopicPartitions(4, [0, 1, 2, 3])}
    key_hash.cache_clear()
    for number in range(20):
        headers = {"traceparent": f"00-{number}" * 10_000}
        assert only(decoder, record(kafka_headers(headers))).record.headers == headers
        encoder.encode(headers)
        packer.partitions([Record("t", b"", b"%d" % number * 10_000)], [0], topics)
    assert not decoder._decoded
    assert not encoder._encoded
    assert not key_hash.cache_info().currsize
