"""The batches of a run as its vendors see them now, without a driver: looked at, or cancelled."""

from __future__ import annotations

from dataclasses import dataclass

from engine.backends.api_batch import VENDORS
from engine.backends.api_batch_patience import is_final
from engine.backends.api_batch_vendors import BatchApi
from engine.job.jobfile import load_run
from engine.job.spec import ApiTeacher, CaptureSpec, TeacherSpec
from engine.run.batches import Batch, under_way
from engine.run.ledger import data_places, stage_folders
from engine.store.paths import Folder

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Seen:
    """One batch whose results nobody has read: what its vendor says of it."""

    batch: Batch
    says: str


async def seen_batches(run: Folder, *, cancel: bool) -> list[Seen]:
    """Every batch of a run that is under way, or has ended and waits to be read; `cancel` asks the
    vendors to stop them first. StageError for a missing or wrong key."""
    everybody = load_run(run).asked().values()
    asked = {teacher.name: teacher for teacher in everybody}
    seen = []
    for folder in stage_folders(run):
        for place in data_places(folder):
            for batch in under_way(place):
                teacher = asked.get(batch.teacher)
                says = await _says(teacher, batch, cancel)
                one = Seen(batch, says)
                seen.append(one)
    return seen


async def _says(teacher: TeacherSpec | None, batch: Batch, cancel: bool) -> str:
    if not isinstance(teacher, ApiTeacher):
        return "the job has no such teacher any more"
    if batch.vendor_id is None:
        return "not confirmed: the job's next run looks for it"
    kind, api = VENDORS[teacher.kind]
    live = kind(
        teacher,
        CaptureSpec(),
        device="cpu",
        timeout_s=PATIENCE_S,
        attempts=1,
    )
    client, error = live.batch_client(PATIENCE_S)
    vendor = api(client, error)
    try:
        return await _state(vendor, batch.vendor_id, cancel)
    except vendor.errors as error:
        unasked = live.unasked(error)
        if is_final(error):
            raise unasked from None
        return str(unasked)


async def _state(vendor: BatchApi, vendor_id: str, cancel: bool) -> str:
    state = await vendor.look(vendor_id)
    if cancel and not state.has_ended:
        await vendor.cancel(vendor_id)
        state = await vendor.look(vendor_id)
    return f"{state.word} {state.done:,} of {state.total:,}"
