"""The doctor: each check has a deployment that trips it, and a sound one trips none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lowtide.cli import main
from lowtide.cli.checks import CHECKS, DAY, GIB, HOUR, SEVERITIES, Facts, Mode, look
from lowtide.cli.probes import PROBES, STRANGER, Got, asker, probe
from lowtide.settings import Settings
from tests.acceptance import scenarios
from tests.docs.pages import ROOT, anchors
from tests.server_process import ServerProcess

NOW = 1_790_000_000_000
SOUND_SETTINGS = Settings(
    public_url="https://api.example.com",
    allowed_hosts=("api.example.com",),
    database="postgresql://app:x@db.example.com/app?sslmode=verify-full",
    secret_key="k",
    smtp_url="smtps://mail:x@mx.example.com:465",
    mail_from="Notes <no-reply@example.com>",
    min_app_versions=("ios 2.1.0 https://example.com",),
    passkey_rp_id="example.com",
    audit_checkpoints="notes",
    blobs="s3://blobs",
    s3_endpoint="https://s3.example.com",
    cors_origins=("https://app.example.com",),
    trusted_proxies=("10.0.0.0/8",),
    host="0.0.0.0",
)
SOUND = Facts(
    settings=SOUND_SETTINGS,
    now=NOW,
    secret_key=Mode("key", 0o600),
    files=(Mode("data", 0o750),),
    disk_free=50 * GIB,
    disk_size=100 * GIB,
    backups_known=True,
    backup_at=NOW - 20 * HOUR,
    checkpoint_at=NOW - HOUR,
    database_now=NOW + 50,
    key_made_at=NOW - 80 * DAY,
    unchained_since=NOW - 1_000,
)
SQLITE = {"database": "data.db", "secret_key": "", "secret_key_file": ""}

TRIPS: dict[str, dict[str, Any]] = {
    "public_url": {"settings": {"public_url": ""}},
    "allowed_hosts": {"settings": {"allowed_hosts": ("localhost",)}},
    "rate_limits": {"settings": {"rate_limits": 0.0}},
    "trusted_proxies": {"settings": {"trusted_proxies": ("10.0.0.1", "::/0")}},
    "secret_key": {"secret_key_problem": "There is no secret key at key."},
    "secret_key_mode": {"secret_key": Mode("key", 0o640)},
    "backup_age": {"backup_at": NOW - 26 * HOUR},
    "database": {"reached": False},
    "postgres_tls": {"settings": {"database": "postgresql://app:x@db.example.com/app"}},
    "postgres_role": {"superuser": True},
    "audit_checkpoint_age": {"checkpoint_at": NOW - 3 * HOUR},
    "disk": {"disk_free": 9 * GIB},
    "listener": {"settings": {"trusted_proxies": ()}},
    "cors_origins": {"settings": {"cors_origins": ("https://a.example", "http://b.example")}},
    "mail": {"settings": {"mail_from": ""}},
    "mail_port": {"settings": {"smtp_url": "smtp://mail:x@mx.example.com:25"}},
    "file_modes": {"files": (Mode("data", 0o755), Mode("data.db", 0o644))},
    "outbox": {"outbox": 1},
    "passkeys": {"settings": {"passkey_rp_id": "localhost"}},
    "clock": {"database_now": NOW - 2_001},
    "key_age": {"key_made_at": NOW - 121 * DAY},
    "audit_checkpoints": {"settings": {"audit_checkpoints": ""}},
    "audit_checkpoints_place": {"checkpoints_here": True},
    "s3_endpoint": {"settings": {"s3_endpoint": "http://s3.example.com"}},
    "blobs": {"settings": {"blobs": "data/blobs"}},
    "audit_chain": {"unchained_since": NOW - HOUR},
    "dead_jobs": {"dead_jobs": 1},
    "log_size": {"log_size": GIB},
    "egress": {"settings": {"egress_allowed": ("10.0.0.9",)}},
    "secret_key_place": {"settings": SQLITE},
    "backups": {"settings": SQLITE | {"secret_key_file": "key"}, "backups_known": False},
    "min_app_versions": {"settings": {"min_app_versions": ()}},
}


def changed(facts: Facts, change: Mapping[str, Any]) -> Facts:
    settings = msgspec.structs.replace(facts.settings, **change.get("settings", {}))
    return msgspec.structs.replace(facts, **dict(change) | {"settings": settings})


class TestChecks:
    def test_a_sound_deployment_has_no_finding(self) -> None:
        """Nothing is told where nothing is open."""
        assert look(SOUND) == []

    @pytest.mark.parametrize("name", [check.name for check in CHECKS])
    def test_each_check_trips_alone(self, name: str) -> None:
        """What one check looks for is found by it, and by no other."""
        assert [finding.check for finding in look(changed(SOUND, TRIPS[name]))] == [name]

    @pytest.mark.parametrize(
        "change",
        [
            {"settings": {"database": "postgresql:///app"}},
            {"settings": {"public_url": "https://api.example.com:8443"}},
            {"checkpoint_at": None, "settings": {"audit_checkpoints": ""}},
            {"files": (Mode("data", 0o770),)},
        ],
    )
    def test_what_is_no_mistake_is_not_told(self, change: dict[str, Any]) -> None:
        """A socket needs no TLS, a port is no other host, a group of one's own may read."""
        assert {finding.check for finding in look(changed(SOUND, change))} <= {"audit_checkpoints"}

    def test_the_worst_comes_first(self) -> None:
        """Findings are in the order in which they should be mended."""
        facts = changed(SOUND, {"settings": {"min_app_versions": (), "rate_limits": 0.0}, "outbox": 3})
        assert [finding.severity for finding in look(facts)] == ["critical", "warning", "notice"]

    def test_each_finding_leads_to_the_playbook(self) -> None:
        """The place in the documentation that a finding names is there."""
        sections = {check.section for check in CHECKS} | {question.section for question in PROBES}
        assert sections <= set(anchors(ROOT / "docs/security/playbook.md"))


GOOD = {
    "strict-transport-security": "max-age=1",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'",
    "referrer-policy": "no-referrer",
    "x-request-id": "1",
}


def answers(path: str, headers: Mapping[str, str]) -> Got:
    """What a sound server answers."""
    if headers.get("Host"):
        return Got(421, GOOD)
    by_path = {"/health/ready": 200, "/health/live": 200, "/v1/admin/audit": 401}
    if path == "/.well-known/jwks.json":
        return Got(200, GOOD, b'{"keys": [{"kty": "EC"}]}')
    return Got(by_path.get(path, 404), GOOD, b'{"code": "not_found"}')


PROBED: dict[str, tuple[str, Got]] = {
    "ready": ("/health/ready", Got(503, GOOD)),
    "admin_closed": ("/v1/admin/audit", Got(200, GOOD)),
    "jwks": ("/.well-known/jwks.json", Got(200, GOOD, b'{"keys": [{"d": "x"}]}')),
    "development": ("/dev/outbox.json", Got(200, GOOD)),
    "hsts": ("/health/live", Got(200, {})),
    "leaks": ("/v1/none-such%00?x=%ff", Got(404, GOOD, b"Traceback (most recent call last)")),
}


class TestProbes:
    def test_a_sound_server_has_no_finding(self) -> None:
        """Nothing is told of a server that answers as it should."""
        assert probe("https://api.example.com", answers) == []

    @pytest.mark.parametrize("name", PROBED)
    def test_each_probe_trips_alone(self, name: str) -> None:
        """One wrong answer is one finding."""
        path, wrong = PROBED[name]
        found = probe("https://x", lambda p, h: wrong if p == path else answers(p, h))
        assert [finding.check for finding in found] == [name]

    def test_headers_hosts_and_origins_are_looked_at(self) -> None:
        """A proxy that strips headers, takes any Host or lets in any page is found."""
        bare = {name: value for name, value in GOOD.items() if name == "strict-transport-security"}
        wide = {"access-control-allow-origin": STRANGER}

        def loose(path: str, headers: Mapping[str, str]) -> Got:
            got = answers(path, {})
            return Got(got.status, bare | (wide if "Origin" in headers else {}), got.body)

        names = {finding.check for finding in probe("https://x", loose)}
        assert names == {"headers", "other_host", "other_origin"}

    def test_a_server_that_is_not_there_is_one_finding(self) -> None:
        """What cannot be asked is told once, with what to look at, and nothing raises."""
        [found] = probe("https://127.0.0.1:1", asker("https://127.0.0.1:1"))
        assert found.check == "ready"
        assert "could not be asked" in found.message
        assert "certificate" in found.fix


@pytest.fixture
def project(project: Path) -> Path:
    """A project after its first start, and the current folder."""
    assert main(["audit", "checkpoint"]) == 0
    return project


class TestCommand:
    def test_it_finds_what_is_open_here(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """On a fresh project: exit code 2, findings as JSON, the database reached, real files looked at."""
        key = project / "data/data.db.key"
        key.chmod(0o644)
        capsys.readouterr()
        assert main(["doctor", "--json", "--backups", "."]) == 2
        found = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}
        assert {"public_url", "secret_key_mode", "audit_checkpoints", "secret_key_place"} <= found.keys()
        assert found["secret_key_mode"]["severity"] == "critical"
        whole = {"database", "secret_key", "backups", "backup_age", "key_age", "outbox", "file_modes"}
        assert not whole & found.keys(), "what Lowtide made by itself is as the doctor wants it"
        key.chmod(0o600)
        main(["doctor"])
        told = capsys.readouterr().out
        assert "secret_key_mode" not in told
        assert "docs/security/playbook.md#secrets" in told
        assert main(["doctor", "--url", "ftp://x"]) == 1

    @pytest.mark.parametrize("content", [None, "x", "A" * 43], ids=["gone", "no key", "another"])
    def test_a_secret_key_that_does_not_open_the_database_is_critical(
        self, project: Path, capsys: pytest.CaptureFixture[str], content: str | None
    ) -> None:
        """The server that runs has read it long ago; the next start would fail."""
        key = project / "data/data.db.key"
        key.unlink() if content is None else key.write_text(content)
        capsys.readouterr()
        assert main(["doctor", "--json"]) == 2
        found = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}
        assert found["secret_key"]["severity"] == "critical"
        assert key.exists() == (content is not None)

    def test_a_place_that_may_not_be_looked_at_is_a_finding(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Neither it nor a server that does not answer ends the doctor; the worst comes first."""
        monkeypatch.setenv("LOWTIDE_AUDIT_CHECKPOINTS", "x" * 300)
        capsys.readouterr()
        assert main(["doctor", "--json", "--url", "http://127.0.0.1:1"]) == 2
        found = json.loads(capsys.readouterr().out)
        assert {"audit_checkpoint_age", "ready", "tls"} <= {finding["check"] for finding in found}
        order = [SEVERITIES.index(finding["severity"]) for finding in found]
        assert order == sorted(order)


def test_a_served_app_is_sound_from_outside(tmp_path: Path) -> None:
    """A server as it comes, asked over a real socket, lacks nothing but TLS."""
    with ServerProcess(tmp_path / "server", scenarios.APPS["crew"], "crew") as server:
        found = probe(server.url, asker(server.url))
    assert [finding.check for finding in found] == ["tls"]
