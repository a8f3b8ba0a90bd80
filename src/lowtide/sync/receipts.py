"""Receipts: which numbers of a device were applied, and what it heard of them: an upload happens once."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Self

import msgspec

from lowtide.kernel.errors import BatchGap, BatchRepeated, LowtideError
from lowtide.storage.db import Tx
from lowtide.sync import store
from lowtide.sync.model import Applied, Batch, CheckpointAsk, Result, Resync, Upload
from lowtide.sync.store import QUERIES, Device, DeviceKey, KeptAnswer
from lowtide.sync.streams import device_topic

MAX_LINEAGES = 16
"""Lineages of a device whose last answer is kept; beyond them the one that wrote least lately goes."""


class Receipts:
    """The exactly-once part of a group: what was applied before, and what to answer from then on."""

    def __init__(self, tx: Tx, devices: dict[DeviceKey, Device]):
        self._tx = tx
        self._devices = devices
        self._answered: dict[DeviceKey, None] = {}
        self._topics: list[str] = []

    @classmethod
    async def open(cls, tx: Tx, batches: Sequence[Batch]) -> Self:
        """The devices that ``batches`` are of, in one query."""
        keys = [key_of(device) for batch in batches if (device := batch.upload or batch.ask) is not None]
        return cls(tx, await store.lock_devices(tx, keys))

    def admit(self, batch: Batch) -> tuple[Batch, int] | Applied | LowtideError:
        """(batch, number of mutations that were applied before), the stored answer, or an error."""
        upload = batch.upload
        if upload is None:
            return batch, 0
        answer = self._devices[key_of(upload)].answers.get(upload.lineage)
        numbers = upload.numbers
        if answer is None:
            return batch, 0
        last_n = answer.numbers[-1]
        if numbers[0] > last_n:
            if upload.first > last_n + 1 and not upload.gap:
                return BatchGap(expected=last_n + 1)
            return batch, 0
        known = _known(answer, upload)
        shared = len(answer.numbers[known])
        same = (
            list(numbers[:shared]) == answer.numbers[known]
            and list(upload.digests[:shared]) == answer.digests[known]
        )
        if not same or transactions_of(batch, shared) < 0:
            return BatchRepeated(expected=last_n + 1, known=_repeated_up_to(batch, upload, answer))
        if len(numbers) == shared:
            return Applied(answer.group, answer.results[known], last_n)
        return batch, shared

    def results_before(self, batch: Batch, skip: int) -> list[Result]:
        """The stored results of the mutations that were applied before."""
        upload = batch.upload
        if upload is None or not skip:
            return []
        answer = self._devices[key_of(upload)].answers[upload.lineage]
        return answer.results[_known(answer, upload)]

    def answer(self, upload: Upload, results: list[Result], group: int) -> None:
        """Keep the answer with the changes it speaks of, once ``write`` is called."""
        key = key_of(upload)
        before = self._devices[key]
        answers = dict(before.answers)
        last = answers.pop(upload.lineage, None)
        skipped = last is not None and upload.first > last.numbers[-1] + 1
        answers[upload.lineage] = KeptAnswer(list(upload.numbers), list(upload.digests), results, group)
        while len(answers) > MAX_LINEAGES:
            del answers[next(iter(answers))]
        self._devices[key] = msgspec.structs.replace(
            before,
            last_n=upload.numbers[-1],
            answers=answers,
            answered_group=group,
            gaps=before.gaps + skipped,
        )
        self._answered[key] = None
        self._topics.append(device_topic(*key))

    async def ask(self, ask: CheckpointAsk, group: int, now: int) -> int:
        """Note a device's checkpoint request; the number that it will hear, or a greater one."""
        key = key_of(ask)
        device = self._devices[key]
        number = ask.number
        if device.request is None:
            # So far it was told numbers of the other kind: groups, up to the one before this.
            number = max(number, group)
        elif number <= device.request:
            if device.answered_group <= device.request_group:
                return device.request
            # Used before, by a copy of this device: it must not hear of it before its own upload.
            number = device.request + 1
        await self._tx.execute(QUERIES["insert_device"], *key, now)
        await self._tx.execute(QUERIES["set_request"], *key, number, group)
        self._devices[key] = msgspec.structs.replace(device, request=number, request_group=group)
        self._topics.append(device_topic(*key))
        return number

    async def resync(self, device: Resync, now: int) -> None:
        """Give a device's buckets new names."""
        key = key_of(device)
        await self._tx.execute(QUERIES["insert_device"], *key, now)
        await self._tx.execute(QUERIES["set_generation"], *key)
        self._topics.append(device_topic(*key))

    async def write(self, now: int) -> None:
        """Write every answer of the group."""
        if self._answered:
            await store.write_answers(self._tx, {key: self._devices[key] for key in self._answered}, now)

    def topics(self) -> list[str]:
        """The devices that wait to hear of their uploads."""
        return self._topics


def key_of(device: Upload | CheckpointAsk | Resync) -> DeviceKey:
    return device.space, device.user, device.client_id


def _known(answer: KeptAnswer, upload: Upload) -> slice:
    """Which part of ``answer`` speaks of the numbers that ``upload`` begins with."""
    at = bisect.bisect_left(answer.numbers, upload.numbers[0])
    return slice(at, at + len(upload.numbers))


def _repeated_up_to(batch: Batch, upload: Upload, answer: KeptAnswer) -> int:
    """The n up to which whole transactions of ``batch`` are the stored ones; 0 for none."""
    applied = dict(zip(answer.numbers, answer.digests, strict=True))
    at = last = 0
    for transaction in batch.transactions:
        end = at + len(transaction.mutations)
        if any(
            applied.get(n) != digest
            for n, digest in zip(upload.numbers[at:end], upload.digests[at:end], strict=True)
        ):
            break
        at, last = end, upload.numbers[end - 1]
    return last


def transactions_of(batch: Batch, mutations: int) -> int:
    """How many whole transactions the first ``mutations`` make; -1 if they end inside one."""
    count = 0
    for i, transaction in enumerate(batch.transactions):
        if count == mutations:
            return i
        count += len(transaction.mutations)
    return len(batch.transactions) if count == mutations else -1
