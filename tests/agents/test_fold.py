"""The order of a checkpoint, and what becomes of frames that cannot be applied."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np

from agents.fold import Fold
from agents.outbox import Receipts, TooLarge
from agents.ownership import Partition
from kernels.stages import STAGES
from runtime.changelog import Row, unpack
from runtime.config import Plant
from runtime.partitions import home_partition
from schemas.codec import decode_as, encode
from schemas.frames import Frame, ValidatedFrame
from schemas.records import Alert, Rejected
from schemas.states import EPOCHS_REMEMBERED
from schemas.topics import CHANGELOGS, MAX_RECORD_BYTES, RAW, VALIDATED
from tests.agents.counting import COUNTING, frame
from tests.kernels.frame_strategies import T0, Reading, frame_of, settings_of

PARTITIONS = 4
ASSET = "R1"
TP = Partition("p.raw", home_partition(b"R1", PARTITIONS))


class _Outbox:
    """Keeps what is sent, confirms when told to; everything that happens is written to one journal."""

    def __init__(self) -> None:
        self.journal: list[str] = []
        self.records: list[tuple[str, bytes, bytes, int]] = []
        self.unconfirmed: list[Receipts] = []
        self.prompt = True
        self.size_max = 10**9
        self.room = asyncio.Event()  # in the producer's queue
        self.room.set()

    async def send(self, receipts: Receipts, topic: str, key: bytes, value: bytes, partition: int) -> None:
        if len(value) > self.size_max and topic in ("p.validated", "p-validation-rows-changelog"):
            raise TooLarge(f"{len(value)} bytes")
        receipts.sent += 1
        await self.room.wait()
        self.journal.append(f"sent {topic}")
        self.records.append((topic, key, value, partition))
        self.unconfirmed.append(receipts)
        if self.prompt:
            self.confirm()

    def confirm(self) -> None:
        for receipts in self.unconfirmed:
            receipts.confirm()
        self.unconfirmed.clear()

    def of(self, topic: str) -> list[bytes]:
        return [value for name, _, value, _ in self.records if name == topic]


class _Case:
    """A fold over the counting stage with everything around it recorded."""

    def __init__(self, params: Any = None, checkpoint_frames: int = 1000, stage: Any = COUNTING) -> None:
        self.outbox = _Outbox()
        self.journal = self.outbox.journal
        self.table: dict[bytes, bytes] = {}
        self.fold = Fold(
            prefix="p",
            partitions=PARTITIONS,
            stage=stage,
            params=params,
            source=RAW,
            outputs=lambda out: [(VALIDATED, out.asset.encode(), out)],
            changelog=next(t for t in CHANGELOGS if t.name == "validation"),
            checkpoint_frames=checkpoint_frames,
            outbox=self.outbox,  # type: ignore[arg-type]
            table=self.table,
            commit=self.commit,
            refuse_zombie=lambda: self.journal.append("alive"),
            fail_point=lambda name: self.journal.append(f"point {name}"),
        )
        self.offset = 0

    async def commit(self, offsets: dict[Partition, int]) -> bool:
        self.journal.append(f"commit {sorted(offsets.values())}")
        return True

    async def take(self, value: bytes, key: bytes = b"R1", tp: Partition = TP) -> None:
        await self.fold.take(tp, self.offset, key, value)
        self.offset += 1

    def row(self) -> Row:
        """The last row written."""
        return unpack(self.outbox.of("p-validation-rows-changelog")[-1])

    def outputs(self) -> list[ValidatedFrame]:
        return [decode_as(v, ValidatedFrame) for v in self.outbox.of("p.validated")]

    def rejected(self) -> list[Rejected]:
        return [decode_as(v, Rejected) for v in self.outbox.of("p.rejected")]


async def test_outputs_then_rows_then_acknowledgement() -> None:
    """A checkpoint waits for the outputs, then writes the rows and waits for them, then commits, in this order."""
    case = _Case()
    case.outbox.prompt = False
    await case.take(encode(frame(ASSET, 0)))
    await case.take(encode(frame(ASSET, 1)))
    saving = asyncio.create_task(case.fold.save())
    await asyncio.sleep(0.01)
    assert case.journal == ["sent p.validated", "sent p.validated"]
    case.outbox.confirm()
    await asyncio.sleep(0.01)
    row_sent = ["point outputs", "alive", "sent p-validation-rows-changelog"]
    assert case.journal[2:] == row_sent
    case.outbox.confirm()
    await saving
    assert case.journal[5:] == ["point rows", "point ack", "commit [2]"]
    row = unpack(case.table[b"R1"])
    assert row.position == 1 and row.state.applied == {("test", 1): 1}
    assert all(partition == TP.partition for *_, partition in case.outbox.records)


async def test_outputs_do_not_wait_for_the_checkpoint() -> None:
    """An output is sent while its frame is taken; a full batch saves by itself, an empty one writes nothing."""
    case = _Case(checkpoint_frames=3)
    await case.take(encode(frame(ASSET, 0)))
    assert case.journal == ["sent p.validated"]
    await case.take(encode(frame(ASSET, 1)))
    await case.take(encode(frame(ASSET, 2)))
    assert case.journal[-1] == "commit [3]"
    seen = len(case.journal)
    await case.fold.save()
    assert len(case.journal) == seen


async def test_a_repeated_frame_leaves_no_trace() -> None:
    """A frame whose identity is applied gives no output and changes no state, but its offset is acknowledged."""
    case = _Case()
    for seq in (0, 1, 1, 0, 2):
        await case.take(encode(frame(ASSET, seq)))
    await case.fold.save()
    assert [out.repeated for out in case.outputs()] == [1, 2, 3]
    assert case.journal[-1] == "commit [5]"


async def test_a_frame_of_a_forgotten_epoch_that_is_read_again_leaves_no_trace() -> None:
    """A worker killed before its acknowledgement reads frames of more epochs than are remembered: each is known, and
    what follows them goes on."""
    case = _Case()
    frames = [encode(frame(ASSET, seq, epoch=epoch)) for epoch in range(EPOCHS_REMEMBERED + 2) for seq in (0, 1)]
    for each in frames:
        await case.take(each)
    await case.fold.save()
    row, outputs = case.row(), len(case.outputs())
    case.fold.begin({ASSET: row}, {})
    case.offset = 0
    for each in frames:
        await case.take(each)
    assert len(case.outputs()) == outputs == len(frames)
    await case.take(encode(frame(ASSET, 2, epoch=EPOCHS_REMEMBERED + 1)))
    assert case.outputs()[-1].repeated == len(frames) + 1


async def test_an_offset_says_repeated_only_where_an_epoch_may_be_forgotten() -> None:
    """While a row remembers every epoch that its source ever had, a frame is known by its identity alone."""
    case = _Case()
    state = replace(COUNTING.initial(ASSET), applied={("test", 1): 6})
    case.fold.begin({ASSET: Row(41, state)}, {})
    await case.take(encode(frame(ASSET, 0, epoch=2)))
    assert [(out.epoch, out.seq) for out in case.outputs()] == [(2, 0)]


async def test_what_cannot_be_decoded_is_rejected_and_the_next_frame_goes_on() -> None:
    """Garbage goes to the rejected records with its place and bytes; nothing waits, nothing else changes."""
    case = _Case()
    good = encode(frame(ASSET, 0))
    for garbage in (b"", b"nonsense", good[:-3], encode(COUNTING.initial("R1"))):
        await case.take(garbage)
    await case.take(good)
    await case.fold.save()
    assert [r.offset for r in case.rejected()] == [0, 1, 2, 3]
    assert case.rejected()[1].payload == b"nonsense" and case.rejected()[1].topic == "p.raw"
    assert [out.repeated for out in case.outputs()] == [1]
    assert case.journal[-1] == "commit [5]"


async def test_what_is_rejected_always_fits_into_a_record() -> None:
    """However large payload and key are, Kafka takes the rejected record, so the process does not end over it."""
    case = _Case()
    await case.take(b"\x00" * (MAX_RECORD_BYTES - 100))
    await case.take(encode(frame(ASSET, 0)), key=b"\xff" * (MAX_RECORD_BYTES // 2))
    assert all(len(key) + len(value) < 10_000 for _, key, value, _ in case.outbox.records)
    assert [r.offset for r in case.rejected()] == [0, 1]
    assert "not copied" in case.rejected()[0].reason


async def test_a_frame_in_the_wrong_place_is_rejected() -> None:
    """A key that is not the asset, or a partition that is not the asset's, would split its state: rejected."""
    case = _Case()
    await case.take(encode(frame(ASSET, 0)), key=b"R2")
    elsewhere = Partition("p.raw", (TP.partition + 1) % PARTITIONS)
    await case.take(encode(frame(ASSET, 0)), tp=elsewhere)
    assert ["allowed is the frame's asset" in r.reason for r in case.rejected()] == [True, False]
    assert "murmur2" in case.rejected()[1].reason
    assert case.outputs() == []
    await case.take(encode(frame(ASSET, 0)))
    await case.take(encode(frame(ASSET, 1)), tp=elsewhere)
    assert "murmur2" in case.rejected()[2].reason, "of an asset that is known, too"
    assert [out.seq for out in case.outputs()] == [0]


async def test_a_step_that_raises_costs_one_frame() -> None:
    """The frame goes to the rejected records and counts as applied; the state goes on; the hole is seen downstream."""
    case = _Case(params="fails at 13")
    for seq in (12, 13, 13, 14):
        await case.take(encode(frame(ASSET, seq)))
    assert [(out.seq, out.repeated) for out in case.outputs()] == [(12, 1), (14, 2)]
    assert [(r.offset, "thirteen" in r.reason) for r in case.rejected()] == [(1, True)]
    assert decode_as(case.rejected()[0].payload, Frame).seq == 13
    assert case.outbox.of("p.alerts") == []


async def test_an_output_that_is_too_large_is_rejected() -> None:
    """Kafka would never take it, so its input is rejected instead of being tried for ever."""
    case = _Case()
    case.outbox.size_max = 2000
    await case.take(encode(frame(ASSET, 0, readings=100)))
    await case.take(encode(frame(ASSET, 1)))
    assert [(r.offset, "too large" in r.reason) for r in case.rejected()] == [(0, True)]
    assert [out.seq for out in case.outputs()] == [1]


async def test_a_frame_whose_state_would_not_fit_a_record_is_rejected() -> None:
    """Ten thousand new tags in one frame are refused with the reason, and the checkpoint after it succeeds."""
    entry = STAGES["validation"]
    case = _Case(params=entry.params_from(settings_of(Plant())), stage=entry.stage)
    case.outbox.size_max = MAX_RECORD_BYTES
    good = [Reading(tag="level", source_ns=T0 + seq) for seq in range(3)]
    many = [Reading(tag=f"tag{i}") for i in range(10_000)]
    frames = [frame_of([good[0]], 0), frame_of([good[1], *many], 1), frame_of([good[2]], 2)]
    for each in frames:
        await case.take(encode(replace(each, asset=ASSET)))
    await case.fold.save()
    assert [out.seq for out in case.outputs()] == [0, 2]
    assert [(r.offset, "make it several assets" in r.reason) for r in case.rejected()] == [(1, True)]
    row = unpack(case.table[b"R1"])
    assert (row.state.tags, row.state.applied) == (("level",), {("test", 1): 2})
    assert case.journal[-1] == "commit [3]"


async def test_lost_frames_raise_an_alert() -> None:
    """A hole in the sequence numbers is an alert with the number of frames, and the frame after it is used."""
    case = _Case()
    await case.take(encode(frame(ASSET, 0)))
    await case.take(encode(frame(ASSET, 4)))
    alerts = [decode_as(v, Alert) for v in case.outbox.of("p.alerts")]
    assert [(a.asset, a.kind, a.value) for a in alerts] == [("R1", "lost_frames", 3.0)]
    assert [out.seq for out in case.outputs()] == [0, 4]


async def test_a_revocation_in_the_middle_of_a_checkpoint_writes_nothing_more() -> None:
    """Where partitions are revoked while outputs are on their way, neither rows nor a commit follow."""
    case = _Case()
    case.outbox.prompt = False
    await case.take(encode(frame(ASSET, 0)))
    saving = asyncio.create_task(case.fold.save())
    await asyncio.sleep(0.01)
    await case.fold.end()
    case.outbox.confirm()
    await saving
    assert case.journal == ["sent p.validated", "point outputs"]
    assert case.table == {}


async def test_a_revocation_waits_for_rows_on_their_way() -> None:
    """A row handed over must arrive before the next owner reads the changelog; the revocation waits for it."""
    case = _Case()
    case.outbox.prompt = False
    await case.take(encode(frame(ASSET, 0)))
    saving = asyncio.create_task(case.fold.save())
    await asyncio.sleep(0.01)
    case.outbox.confirm()
    await asyncio.sleep(0.01)
    ending = asyncio.create_task(case.fold.end())
    await asyncio.sleep(0.01)
    assert not ending.done()
    case.outbox.confirm()
    await asyncio.gather(saving, ending)
    assert case.journal[-1] == "point rows"


async def test_recovered_states_go_on_and_overtaken_rows_are_written_again() -> None:
    """The fold continues from recovered rows; a row that a zombie wrote over is repaired at the first checkpoint."""
    case = _Case()
    chain = {"chain": np.array([7, 123], np.int64)}
    state = replace(COUNTING.initial(ASSET), columns=chain, applied={("test", 1): 6})
    case.fold.begin({ASSET: Row(41, state)}, {ASSET: TP})
    await case.fold.save()
    assert unpack(case.table[b"R1"]) == Row(41, state)
    await case.take(encode(frame(ASSET, 6)))
    await case.take(encode(frame(ASSET, 7)))
    assert [(out.seq, out.repeated) for out in case.outputs()] == [(7, 8)]


async def test_a_checkpoint_does_not_cut_a_frame() -> None:
    """One that begins while an output waits for room in the producer's queue waits for all of that frame: no row says
    "applied" before Kafka has the output."""
    case = _Case()
    case.outbox.prompt = False
    case.outbox.room.clear()
    taking = asyncio.create_task(case.take(encode(frame(ASSET, 0))))
    await asyncio.sleep(0.01)
    saving = asyncio.create_task(case.fold.save())
    await asyncio.sleep(0.01)
    case.outbox.room.set()
    await taking
    again = asyncio.create_task(case.fold.save())
    await asyncio.sleep(0.01)
    assert case.journal == ["sent p.validated"]
    case.outbox.prompt = True
    case.outbox.confirm()
    await asyncio.gather(saving, again)
    assert case.journal[-1] == "commit [1]"


async def test_saving_and_taking_may_overlap() -> None:
    """Frames taken while a checkpoint waits belong to the next one; no row claims more than its outputs."""
    case = _Case()
    case.outbox.prompt = False
    await case.take(encode(frame(ASSET, 0)))
    saving = asyncio.create_task(case.fold.save())
    await asyncio.sleep(0.01)
    await case.take(encode(frame(ASSET, 1)))
    case.outbox.prompt = True
    case.outbox.confirm()
    await saving
    assert unpack(case.table[b"R1"]).position == 0
    assert case.journal[-1] == "commit [1]"
    await case.fold.save()
    assert unpack(case.table[b"R1"]).position == 1
    assert case.journal[-1] == "commit [2]"
