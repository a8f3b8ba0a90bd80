"""The phone and its upload connector, against handmade server lines."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.phones.connector import MAX_MUTATIONS, Upload, Verdict
from tests.phones.phone import Applied, Closed, Event, Mismatch, Phone, TokenWanted

TABLES = {"task": {"title": "TEXT", "votes": "INTEGER"}, "note": {"body": "TEXT"}}


class Device:
    """A phone with a clock and names that a test sets."""

    def __init__(self, **options: Any):
        self.time = 1_790_000_000_000
        self.names = iter(f"name{i}" for i in range(100))
        self.phone = Phone("a", TABLES, now=lambda: self.time, token=lambda: next(self.names), **options)

    def line(self, **line: Any) -> list[Event]:
        return self.phone.receive(msgspec.json.encode(line).decode())

    def connect(self) -> dict[str, Any]:
        body = self.phone.start()
        assert self.phone.established() == []
        return body

    def checkpoint(self, op: int, checksum: int, write: str | None = None) -> list[Event]:
        bucket = {"bucket": "b", "checksum": checksum, "count": 1, "priority": 3, "subscriptions": []}
        checkpoint: dict[str, Any] = {"last_op_id": str(op), "buckets": [bucket], "streams": []}
        if write is not None:
            checkpoint["write_checkpoint"] = write
        return self.line(checkpoint=checkpoint)

    def put(self, op: int, id: str, checksum: int, **data: Any) -> list[Event]:
        entry = {"op_id": str(op), "op": "PUT", "object_type": "task", "object_id": id, "checksum": checksum}
        entry["data"] = msgspec.json.encode(data).decode()
        return self.line(data={"bucket": "b", "data": [entry]})

    def complete(self, op: int) -> list[Event]:
        return self.line(checkpoint_complete={"last_op_id": str(op)})

    def upload(self) -> tuple[Upload, dict[str, Any]]:
        upload = self.phone.upload()
        assert upload is not None
        return upload, msgspec.json.decode(upload.body)


def ok(last: int) -> bytes:
    return msgspec.json.encode({"last": last, "results": []})


def problem(code: str, **details: Any) -> bytes:
    return msgspec.json.encode({"code": code, **details})


def numbers(body: dict[str, Any]) -> list[list[int]]:
    return [[m["n"] for m in t.get("mutations", [])] for t in body["transactions"]]


def test_a_batch_holds_local_transactions_whole_with_numbers_bases_and_write_times() -> None:
    """Each local transaction is one of the batch; n is the queue's number, base what was replaced."""
    device = Device()
    phone = device.phone
    phone.write(phone.insert("task", "t", title="A", votes=1), phone.insert("note", "n", body="x"))
    device.time += 5_000
    phone.write(("UPDATE task SET title = 'B', _metadata = 'why' WHERE id = 't'", ()))
    phone.write(phone.delete("note", "n"))
    device.time += 70

    upload, body = device.upload()

    assert (upload.first, upload.last) == (1, 4)
    assert body["client_id"] == phone.client_id
    assert body["sent_at"] == 1_790_000_005_070
    assert "lineage" not in body
    assert "gap" not in body
    at = 1_790_000_000_000
    assert [t["mutations"] for t in body["transactions"]] == [
        [
            {"n": 1, "op": "put", "model": "task", "id": "t", "data": {"title": "A", "votes": 1}, "at": at},
            {"n": 2, "op": "put", "model": "note", "id": "n", "data": {"body": "x"}, "at": at},
        ],
        [
            {
                "n": 3,
                "op": "patch",
                "model": "task",
                "id": "t",
                "data": {"title": "B"},
                "base": {"title": "A"},
                "at": at + 5_000,
                "metadata": "why",
            }
        ],
        [{"n": 4, "op": "delete", "model": "note", "id": "n", "base": {"body": "x"}, "at": at + 5_000}],
    ]


def test_write_times_go_with_their_entries() -> None:
    """A stamp lives as long as its queue entry, and a rolled back write leaves none."""
    device = Device()
    phone = device.phone
    phone.write(phone.insert("task", "t", title="A"))
    with pytest.raises(Exception, match="no such table"):
        phone.write(phone.insert("task", "u", title="B"), phone.insert("nothing", "u", title="B"))
    stamps = phone.database.execute("SELECT crud_id FROM lowtide_stamp").fetchall()
    assert stamps == [(1,)]
    upload, _ = device.upload()
    assert phone.uploaded(upload, 200, ok(1)) is Verdict.DONE
    assert phone.database.execute("SELECT crud_id FROM lowtide_stamp").fetchall() == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, b""),
        (502, b"<html>"),
        (500, b"{}"),
        (429, problem("too_many_requests")),
        (200, b"[]"),
        (200, ok(0)),
    ],
)
def test_entries_leave_the_queue_only_for_an_answer_that_covers_them(status: int, body: bytes) -> None:
    """Anything but a 200 that names the last number keeps every entry, and the batch keeps its numbers."""
    device = Device()
    phone = device.phone
    phone.write(phone.insert("task", "t", title="A"))
    upload, first = device.upload()
    assert phone.uploaded(upload, status, body) is Verdict.LATER
    phone.kill()
    again, second = device.upload()
    assert (again.first, again.last) == (1, 1)
    assert second["transactions"] == first["transactions"]
    assert phone.uploaded(again, 200, ok(1)) is Verdict.DONE
    assert phone.upload() is None


def test_a_gap_is_confirmed_once_and_only_when_numbers_were_discarded() -> None:
    """409 batch_gap below the batch's first number is confirmed; above it, it would hide a fault."""
    device = Device()
    phone = device.phone
    phone.write(phone.insert("task", "t", title="lost when signing out"))
    phone.sign_out()
    phone.write(phone.insert("task", "u", title="B"))
    upload, body = device.upload()
    assert numbers(body) == [[2]]
    assert phone.uploaded(upload, 409, problem("batch_gap", expected=7)) is Verdict.LATER
    assert "gap" not in device.upload()[1]
    assert phone.uploaded(upload, 409, problem("batch_gap", expected=1)) is Verdict.AGAIN
    upload, body = device.upload()
    assert body["gap"] is True
    assert phone.uploaded(upload, 200, ok(2)) is Verdict.DONE
    phone.write(phone.insert("task", "v", title="C"))
    assert "gap" not in device.upload()[1]


def test_numbers_used_before_start_a_new_lineage_that_is_kept() -> None:
    """A restored database's numbers have meant something else: a new lineage, also after a restart."""
    device = Device()
    phone = device.phone
    phone.write(phone.insert("task", "t", title="A"))
    upload, _ = device.upload()
    assert phone.uploaded(upload, 409, problem("batch_repeated")) is Verdict.AGAIN
    assert device.upload()[1]["lineage"] == "name1"
    phone.kill()
    assert device.upload()[1]["lineage"] == "name1"


def test_what_another_copy_of_the_phone_uploaded_leaves_the_queue() -> None:
    """It counts once; what was written since the copy was made is sent under the new lineage."""
    device = Device()
    phone = device.phone
    for id in ("t", "u", "v"):
        phone.write(phone.insert("task", id, title=id))
    upload, body = device.upload()
    assert numbers(body) == [[1], [2], [3]]
    assert phone.uploaded(upload, 409, problem("batch_repeated", known=2)) is Verdict.AGAIN
    _, body = device.upload()
    assert (numbers(body), body["lineage"]) == ([[3]], "name1")


def test_an_expired_token_is_asked_for_and_the_batch_kept() -> None:
    """401 fetches a token and sends the same batch."""
    device = Device()
    device.phone.write(device.phone.insert("task", "t", title="A"))
    upload, body = device.upload()
    assert device.phone.uploaded(upload, 401, problem("token_expired")) is Verdict.TOKEN
    assert device.upload()[1] == body


def test_batches_are_split_between_transactions_never_inside() -> None:
    """A batch holds as many whole transactions as fit, and at least one."""
    device = Device(max_mutations=3)
    phone = device.phone
    for i in range(3):
        phone.write(phone.insert("task", f"t{i}", title="A"), phone.insert("note", f"n{i}", body="x"))
    phone.write(*[phone.insert("task", f"big{i}", title="A") for i in range(5)])
    seen = []
    while upload := phone.upload():
        seen.append(numbers(msgspec.json.decode(upload.body)))
        phone.uploaded(upload, 200, ok(upload.last))
    assert seen == [[[1, 2]], [[3, 4]], [[5, 6]], [[7, 8, 9, 10, 11]]]


def test_a_transaction_beyond_the_limit_is_reported_and_blocks_nothing() -> None:
    """A transaction that no server takes goes up as its size, alone, and those behind it follow."""
    device = Device()
    phone = device.phone
    phone.write(*[phone.insert("note", f"n{i}", body="x") for i in range(MAX_MUTATIONS + 1)])
    phone.write(phone.insert("task", "t", title="A"))
    upload, body = device.upload()
    assert [set(t) for t in body["transactions"]] == [{"oversized"}]
    assert body["transactions"][0]["oversized"]["count"] == MAX_MUTATIONS + 1
    phone.uploaded(upload, 200, ok(upload.last))
    assert numbers(device.upload()[1]) == [[MAX_MUTATIONS + 2]]


def test_a_refused_body_is_halved_until_the_fault_is_alone_and_then_reported() -> None:
    """413 or 400 for a batch: smaller batches, then the one transaction at fault as oversized."""
    device = Device()
    phone = device.phone
    for i in range(4):
        phone.write(phone.insert("task", f"t{i}", title="bad" if i == 1 else "good"))
    sent: list[Any] = []
    while upload := phone.upload():
        body = upload.body
        sent.append(numbers(msgspec.json.decode(body)))
        if b'"bad"' in body:
            assert phone.uploaded(upload, 413, problem("too_large")) is Verdict.AGAIN
        else:
            assert phone.uploaded(upload, 200, ok(upload.last)) is Verdict.DONE
        assert len(sent) < 20
    assert sent == [[[1], [2], [3], [4]], [[1], [2]], [[1]], [[2], [3]], [[2]], [[]], [[3], [4]]]


def test_a_checkpoint_becomes_visible_whole_and_only_when_complete() -> None:
    """Rows of a checkpoint are seen after its completion and not before."""
    device = Device()
    assert device.connect()["buckets"] == []
    assert device.checkpoint(10, 7) == []
    assert device.put(3, "t", 7, title="A", votes=1) == []
    assert device.phone.rows("task") == {}
    assert device.complete(10) == [Applied(10)]
    assert device.phone.rows("task") == {"t": {"title": "A", "votes": 1}}
    assert device.phone.stored("task") == {"t": '{"title":"A","votes":1}'}
    assert device.phone.buckets() == ["b"]
    assert device.connect()["buckets"] == [{"name": "b", "after": "10"}]


def test_a_wrong_checksum_is_an_event_and_ends_the_iteration() -> None:
    """A mismatch is told apart from every other end of a stream."""
    device = Device()
    device.connect()
    device.checkpoint(10, 8)
    device.put(3, "t", 7, title="A")
    events = device.complete(10)
    assert [type(event) for event in events] == [Mismatch, Closed]
    assert device.phone.rows("task") == {}
    assert not device.phone.connected


@pytest.mark.parametrize("requests", [False, True])
def test_a_local_write_is_not_overwritten_before_its_own_checkpoint(requests: bool) -> None:
    """Downloads wait for the checkpoint that has the upload in it, in both of the SDKs' ways."""
    device = Device(requests=requests)
    phone = device.phone
    device.connect()
    assert (phone.seed is not None) == requests
    if requests:
        phone.seeded("40")
        assert phone.seed is None
    device.checkpoint(10, 7)
    device.put(3, "t", 7, title="A")
    device.complete(10)
    phone.write(phone.update("task", "t", title="mine"))
    assert phone.ask_checkpoint() is None, "not while the queue holds something"
    upload, _ = device.upload()
    phone.uploaded(upload, 200, ok(1))
    ask = phone.ask_checkpoint()
    assert ask is not None
    name = "checkpoint_request_id" if requests else "write_checkpoint"
    assert phone.checkpoint_given(ask, msgspec.json.encode({"data": {name: "41"}})) == []
    assert phone.ask_checkpoint() is None, "the answer is there"

    device.checkpoint(20, 7, write="40")
    assert device.complete(20) == [], "a checkpoint from before the upload"
    assert phone.rows("task")["t"]["title"] == "mine"
    device.checkpoint(30, 9, write="41")
    device.put(25, "t", 2, title="merged")
    assert device.complete(30) == [Applied(30)]
    assert phone.rows("task")["t"]["title"] == "merged"


def test_a_write_during_the_checkpoint_request_makes_its_answer_worthless() -> None:
    """A checkpoint asked for before a local write does not cover it."""
    device = Device()
    phone = device.phone
    phone.write(phone.insert("task", "t", title="A"))
    upload, _ = device.upload()
    phone.uploaded(upload, 200, ok(1))
    ask = phone.ask_checkpoint()
    assert ask is not None
    phone.write(phone.insert("task", "u", title="B"))
    upload, _ = device.upload()
    phone.uploaded(upload, 200, ok(2))
    phone.checkpoint_given(ask, b'{"data":{"write_checkpoint":"5"}}')
    assert phone.ask_checkpoint() is not None


def test_a_kill_keeps_what_was_committed_and_a_reinstall_nothing() -> None:
    """The same client_id and queue after a kill; a new client_id and no queue after a reinstall."""
    device = Device()
    phone = device.phone
    phone.write(phone.insert("task", "t", title="A"))
    before = phone.client_id
    device.connect()
    phone.kill()
    assert phone.client_id == before
    assert phone.queued() == 1
    assert not phone.connected
    phone.reinstall()
    assert phone.client_id != before
    assert phone.queued() == 0


def test_a_new_app_version_sees_old_rows_in_its_new_columns() -> None:
    """An upgrade keeps rows and queue; the new column is there at once."""
    device = Device()
    device.connect()
    device.checkpoint(10, 7)
    device.put(3, "t", 7, title="A", votes=1, colour="red")
    device.complete(10)
    device.phone.upgrade({**TABLES, "task": {**TABLES["task"], "colour": "TEXT"}}, requests=False)
    assert device.phone.rows("task")["t"] == {"title": "A", "votes": 1, "colour": "red"}


def test_a_line_cut_in_the_middle_ends_the_iteration_and_harms_nothing() -> None:
    """Half a line closes the stream; the next iteration goes on from what was received."""
    device = Device()
    device.connect()
    device.checkpoint(10, 7)
    assert device.phone.receive('{"data":{"bucket":"b","da') == [Closed(False)]
    assert device.phone.receive('{"token_expires_in":30}') == []
    assert device.phone.ended() == []
    device.connect()
    device.checkpoint(10, 7)
    device.put(3, "t", 7, title="A")
    assert device.complete(10) == [Applied(10)]


def test_an_expired_token_in_the_stream_asks_for_another() -> None:
    """``token_expires_in`` 0 asks for new credentials and ends the stream."""
    device = Device()
    device.connect()
    assert device.line(token_expires_in=0) == [TokenWanted(True), Closed(False)]
