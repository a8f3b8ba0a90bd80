"""The log: one JSON line an event, sampled, bounded, without secrets."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from lowtide.api.logs import ACCESS, REFUSALS_A_SECOND, AccessLog, JsonLines
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.ids import SeededIds


def record(**fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("lowtide.api", logging.WARNING, "f.py", 1, "hello %s", ("you",), None)
    made.fields = fields
    return made


class TestJsonLines:
    def test_a_record_is_one_line(self) -> None:
        """Time, level, logger, message and fields; a line end inside is escaped."""
        text = JsonLines().format(record(id="a\nb", n=1))
        assert "\n" not in text
        line = json.loads(text)
        assert line.pop("time").endswith("+00:00")
        assert line == {
            "level": "warning",
            "logger": "lowtide.api",
            "message": "hello you",
            "id": "a\nb",
            "n": 1,
        }

    def test_a_traceback_is_kept(self) -> None:
        """An error's traceback is in its line."""
        made = record()
        try:
            raise ValueError("boom")
        except ValueError as error:
            made.exc_info = (ValueError, error, error.__traceback__)
        assert "ValueError: boom" in json.loads(JsonLines().format(made))["traceback"]

    def test_anything_can_be_a_field(self) -> None:
        """A value that JSON does not know is written as text: logging never fails."""
        assert json.loads(JsonLines().format(record(x=object)))["x"] == "<class 'object'>"


class TestSampling:
    def log(self, clock: ManualClock, **options: Any) -> AccessLog:
        return AccessLog(clock, SeededIds(clock), **options)

    def test_faults_and_slow_answers_are_always_written(self, clock: ManualClock) -> None:
        """Whatever the sample, a 5xx and a slow success have a line."""
        log = self.log(clock, sample=0.0)
        assert all(log.wants(503, 0) and log.wants(500, 0) and log.wants(200, 1.0) for _ in range(1000))
        assert not any(log.wants(200, 0.9) for _ in range(1000))

    def test_successes_are_sampled(self, clock: ManualClock) -> None:
        """About the share that was asked for; all of them with 1."""
        log = self.log(clock, sample=0.1)
        assert 50 < sum(log.wants(200, 0) for _ in range(1000)) < 200
        assert all(self.log(clock, sample=1.0).wants(200, 0) for _ in range(100))

    def test_refusals_are_bounded(self, clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
        """An attack writes so many lines a second, and the next line says how many are missing."""
        log = self.log(clock, sample=0.0)
        assert sum(log.wants(401, 0) for _ in range(1000)) == REFUSALS_A_SECOND
        clock.advance(1)
        assert log.wants(401, 0)
        with caplog.at_level(logging.INFO, "lowtide.access"):
            log.write({"status": 401})
            log.write({"status": 401})
        written = [getattr(made, "fields", None) for made in caplog.records]
        assert written == [{"status": 401, "left_out": 1000 - REFUSALS_A_SECOND}, {"status": 401}]

    def test_a_line_can_be_read_by_a_machine(self, clock: ManualClock) -> None:
        """Through the formatter, an access line is JSON with the fields at its top."""
        out = io.StringIO()
        handler = logging.StreamHandler(out)
        handler.setFormatter(JsonLines())
        ACCESS.addHandler(handler)
        level = ACCESS.level
        ACCESS.setLevel(logging.INFO)
        try:
            self.log(clock).write({"status": 200, "ms": 1.5})
        finally:
            ACCESS.removeHandler(handler)
            ACCESS.setLevel(level)
        line = json.loads(out.getvalue())
        assert (line["status"], line["ms"], line["logger"]) == (200, 1.5, "lowtide.access")
