"""The wire format: what is written is read to the bit, and damaged bytes never get through."""

import io
import json
import struct
import tracemalloc

import avro.io
import avro.schema
import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.framer import Framer, Reading
from runtime.config import Framing
from schemas import codec
from schemas.codec import DecodeError, decode, decode_as, encode, identity_of, version_of
from schemas.frames import EstimateFrame, Frame, FrameError, Gap, ValidatedFrame, columns_of, empty_columns
from schemas.quality import Mark
from schemas.records import Alert, Rejected, TwinState, Variable, Window
from schemas.states import EPOCHS_REMEMBERED, StageState
from schemas.weight import Absurd, Walk

FRAMES = (Frame, ValidatedFrame, EstimateFrame)
EDGE_VALUES = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 5e-324, 1e308, 2.0**63, 85.3]


def frame_of(frame_type: type[Frame], n: int = len(EDGE_VALUES), **other: object) -> Frame:
    """A frame with n readings of two tags."""
    columns = {name: np.arange(n).astype(dtype) for name, dtype in columns_of(frame_type).items()}
    columns["tag"] = (np.arange(n) % 2).astype("<u2")
    columns["value"] = np.resize(np.array(EDGE_VALUES, "<f8"), n)
    fields = {"asset": "R101", "source": "mqtt-1", "epoch": 7, "seq": 3, "time_ns": 9} | other
    return frame_type(tags=("temperature", "pressure"), units=("degC", ""), **fields, **columns)  # type: ignore[arg-type]


RECORDS = [
    *(frame_of(t, texts={2: "Bad", 4: "Inp OutRange 🌡"}) for t in FRAMES),
    Frame(asset="R", source="s", epoch=1, seq=0, time_ns=5, kind="heartbeat", connected=False, **empty_columns(Frame)),
    ValidatedFrame(
        asset="R", source="s", epoch=1, seq=0, time_ns=5, kind="gap", gap=Gap(from_ns=1, to_ns=2, cause="x", lost=3),
        **empty_columns(ValidatedFrame),
    ),
    Rejected(stage="validation", reason="r", payload=b"\x00\xff", offset=2**40),
    Alert(asset="R", kind="stale", severity="warning", time_ns=-1, message="m", value=None),
    TwinState(
        asset="R", source="s", epoch=1, seq=2, time_ns=3, clock_ns=4, model="batch_reactor",
        variables={"temperature": Variable(value=85.0, unit="degC")}, model_states={"conversion": 0.1},
        windows=(Window(tag="t", window_s=1.0, start_ns=0, count=2, mean=1.0, min=0.0, max=2.0),),
        alerts=(Alert(asset="R", kind="gap", severity="info", time_ns=1, message="m", value=2.0),),
    ),
    StageState(
        stage="validation", asset="R", applied={("mqtt-1", 7): 3}, tags=("a", "b"),
        columns={"history": np.arange(6.0).reshape(2, 3), "count": np.array([1, 2], "<i8")},
    ),
]  # fmt: skip


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_round_trip(record: codec.Record) -> None:
    """What is written is what is read, to the bit, NaN and −0.0 included."""
    assert decode(encode(record)) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_every_truncation_and_every_tail_is_refused(record: codec.Record) -> None:
    """A record cut anywhere, or with a byte too many, is a DecodeError and nothing else."""
    data = encode(record)
    for damaged in [data[:n] for n in range(len(data))] + [data + b"\x00"]:
        with pytest.raises(DecodeError):
            decode(damaged)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(RECORDS), st.data())
def test_bit_flips_never_raise_anything_else(record: codec.Record, data: st.DataObject) -> None:
    """A record with flipped bits decodes to some record of the type or raises DecodeError."""
    damaged = bytearray(encode(record))
    for position in data.draw(st.lists(st.integers(0, len(damaged) * 8 - 1), min_size=1, max_size=8)):
        damaged[position // 8] ^= 1 << position % 8
    try:
        decode(bytes(damaged))
    except DecodeError:
        return


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(codec.versions()), st.binary(max_size=300))
def test_garbage_behind_a_good_header_never_raises_anything_else(version: codec.Version, body: bytes) -> None:
    """Random bytes under a known fingerprint raise DecodeError or decode."""
    try:
        decode(codec.MARKER + version.fingerprint + body)
    except DecodeError:
        return


def test_absurd_lengths_are_refused_without_allocating() -> None:
    """A string that claims 2^60 bytes is refused at once."""
    length = io.BytesIO()
    fastavro.schemaless_writer(length, "long", 2**60)
    with pytest.raises(DecodeError):
        decode(encode(RECORDS[0])[: codec.HEADER_BYTES] + length.getvalue() + b"x")


def _long(value: int) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", value)
    return out.getvalue()


@pytest.mark.parametrize("bomb", ["tags", "texts"])
def test_a_few_bytes_that_stand_for_much_memory_are_refused_before_it_is_taken(bomb: str) -> None:
    """15 MB of empty texts, which would become 150 MB and 1.5 GB of objects, are refused with less than 50 MB."""
    n = 15 * 1024 * 1024
    head = encode(RECORDS[0])[: codec.HEADER_BYTES] + b"\x02A\x02s\x00\x00\x00\x01\x00"
    claims = _long(n) if bomb == "tags" else b"\x00" * 9 + _long(n // 2)
    data = head + claims + b"\x00" * n
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="that a record may take"):
            decode(data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 50e6


def test_the_heaviest_frame_of_a_connector_is_not_too_heavy() -> None:
    """As many readings as a frame may have, each with a text, as long as a frame may be: read like any other."""
    n = Framing(readings_max=100_000).readings_max
    framer = Framer("s", 1, Framing(readings_max=n))
    for i in range(n):
        framer.add(
            Reading(asset="R", tag=f"t{i % 60_000}", unit="", value=float("nan"), source_time_ns=i,
                    arrival_time_ns=i, mark=int(Mark.TEXT), text="Out of range"), 1,
        )  # fmt: skip
    frames = [frame for frame, _ in framer.due(2, flush=True)]
    assert sum(map(len, frames)) == n
    assert all(decode(encode(frame)) == frame for frame in frames)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_the_walk_ends_where_the_record_ends(record: codec.Record) -> None:
    """Walking over a record's lengths finds its end, whatever its schema."""
    data = encode(record)
    walk = Walk(data, codec.HEADER_BYTES)
    walk.over(version_of(data).parsed)
    assert walk.at == len(data)
    for n in range(codec.HEADER_BYTES, len(data)):
        cut = Walk(data[:n], codec.HEADER_BYTES)
        try:
            cut.over(version_of(data).parsed)
        except Absurd:
            continue
        assert cut.at > n  # a number at the end is cut


def test_column_of_wrong_length_names_the_column() -> None:
    """A column whose length does not fit the others is refused by name."""
    frame = frame_of(Frame)
    plain = codec._frame_to_avro(frame)
    plain["status_u32"] = plain["status_u32"][:-4]
    version = version_of(encode(frame))
    body = io.BytesIO()
    fastavro.schemaless_writer(body, version.parsed, plain)
    with pytest.raises(DecodeError, match="column status"):
        decode(codec.MARKER + version.fingerprint + body.getvalue())


def test_unknown_fingerprint_names_the_known_ones() -> None:
    """A record of a schema we do not have says which ones we have."""
    with pytest.raises(DecodeError, match=r"0102030405060708 is unknown, known are .*RawFrame v1"):
        decode(codec.MARKER + bytes(range(1, 9)) + b"...")


def test_other_type_on_a_topic_is_refused() -> None:
    """A topic that holds raw frames does not accept an alert."""
    with pytest.raises(DecodeError, match="record is a Alert, allowed here is Frame"):
        decode_as(encode(RECORDS[6]), Frame)


def test_header_is_avro_single_object_encoding() -> None:
    """The header is C3 01 and the little-endian CRC-64-AVRO, as the specification's table computes it."""
    version = version_of(encode(RECORDS[0]))
    schema = json.loads((codec.FOLDER / "raw_frame.v1.avsc").read_text("utf-8"))
    canonical = fastavro.schema.to_parsing_canonical_form(schema).encode()
    assert version.fingerprint == struct.pack("<Q", crc_64_avro(canonical))


def test_apache_avro_reads_what_we_write() -> None:
    """The reference implementation reads a frame's body and finds the same column bytes."""
    frame = frame_of(Frame)
    schema = avro.schema.parse((codec.FOLDER / "raw_frame.v1.avsc").read_text("utf-8"))
    reader = avro.io.DatumReader(schema)
    plain = reader.read(avro.io.BinaryDecoder(io.BytesIO(encode(frame)[codec.HEADER_BYTES :])))
    assert (plain["asset"], plain["value_f64"]) == ("R101", frame.value.tobytes())


def test_frames_that_contradict_themselves_cannot_be_built() -> None:
    """A wrong length, element type, tag index, gap or text index is refused with the name and what is allowed."""
    good = {name: np.zeros(2, dtype) for name, dtype in columns_of(Frame).items()}
    base = {"asset": "R", "source": "s", "epoch": 0, "seq": 0, "time_ns": 0, "tags": ("t",), "units": ("",)}
    for change, message in [
        ({"value": np.zeros(3)}, "column value"),
        ({"value": np.zeros(2, "<f4")}, "column value"),
        ({"tag": np.array([0, 1], "<u2")}, r"index 1, allowed is 0…0"),
        ({"units": ()}, "units"),
        ({"kind": "gap"}, "a gap frame has a gap"),
        ({"texts": {2: "x"}}, "texts"),
        ({"seq": -1}, "seq -1"),
        ({"asset": ""}, "asset ''"),
    ]:
        with pytest.raises(FrameError, match=message):
            Frame(**{**base, **good, **change})


def test_state_remembers_the_last_epochs_of_a_source() -> None:
    """A frame of a remembered epoch is known as applied; only the newest epochs are kept."""
    state = StageState(stage="validation", asset="R101")
    for epoch in range(EPOCHS_REMEMBERED + 2):
        state = state.with_applied(frame_of(Frame, epoch=epoch, seq=5).identity)
    assert sorted(epoch for _, epoch in state.applied) == list(range(2, EPOCHS_REMEMBERED + 2))
    assert state.has_applied(frame_of(Frame, epoch=3, seq=5).identity)
    assert not state.has_applied(frame_of(Frame, epoch=3, seq=6).identity)
    assert state.lost_before(frame_of(Frame, epoch=3, seq=8).identity) == 2


def test_an_epoch_is_remembered_after_the_clock_was_set_back() -> None:
    """The epochs that came last are kept, whatever their numbers: one that is smaller than all known is not lost."""
    state = StageState(stage="validation", asset="R101")
    for epoch in range(100 + EPOCHS_REMEMBERED, 100, -1):
        state = state.with_applied(frame_of(Frame, epoch=epoch, seq=5).identity)
    state = state.with_applied(frame_of(Frame, epoch=7, seq=0).identity)
    assert state.has_applied(frame_of(Frame, epoch=7, seq=0).identity)
    assert state.lost_before(frame_of(Frame, epoch=7, seq=2).identity) == 1
    assert list(state.applied)[-1] == ("mqtt-1", 7)
    assert ("mqtt-1", 100 + EPOCHS_REMEMBERED) not in state.applied and len(state.applied) == EPOCHS_REMEMBERED


def test_frames_lost_at_the_beginning_of_an_epoch_are_counted() -> None:
    """A new epoch of a known source begins at 0, so what is missing before its first frame is lost. Nothing is known of
    a source that comes for the first time, of an older epoch, and of other sources."""
    state = StageState(stage="validation", asset="R101")
    assert state.lost_before(frame_of(Frame, epoch=5, seq=8).identity) == 0
    state = state.with_applied(frame_of(Frame, epoch=5, seq=8).identity)
    assert state.lost_before(frame_of(Frame, epoch=6, seq=0).identity) == 0
    assert state.lost_before(frame_of(Frame, epoch=6, seq=3).identity) == 3
    assert state.lost_before(frame_of(Frame, epoch=4, seq=3).identity) == 0
    assert state.lost_before(frame_of(Frame, source="opcua-1", epoch=6, seq=3).identity) == 0


def crc_64_avro(data: bytes) -> int:
    """CRC-64-AVRO as the specification's pseudo code has it (Avro 1.12, "Schema Fingerprints")."""
    empty = 0xC15D213AA4D7A795
    table = []
    for i in range(256):
        fp = i
        for _ in range(8):
            fp = (fp >> 1) ^ (empty & -(fp & 1) & 0xFFFFFFFFFFFFFFFF)
        table.append(fp)
    crc = empty
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc


def test_an_identity_is_read_without_the_rest() -> None:
    """What has an identity gives the same one without being built; another type, a cut and a tail are refused."""
    with_identity = [record for record in RECORDS if hasattr(record, "identity")]
    assert {type(record) for record in with_identity} >= {*FRAMES, TwinState}
    for record in with_identity:
        data = encode(record)
        assert identity_of(data, type(record)) == record.identity
        other = TwinState if isinstance(record, Frame) else Frame
        for wrong, kind in ((data, other), (data[:-1], type(record)), (data + b"x", type(record))):
            with pytest.raises(DecodeError):
                identity_of(wrong, kind)
