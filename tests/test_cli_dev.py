"""What 'lowtide dev' decides by itself; how it behaves as a process is in test_wheel.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lowtide.cli.dev import PORTS_TRIED, box, greeting, open_listener, opened_up, watched
from lowtide.cli.listener import listen, url
from lowtide.kernel.errors import SetupError
from lowtide.settings import Settings


class TestPorts:
    def test_a_taken_port_means_the_next_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Two projects can be served at once without a setting, and the developer is told."""
        with listen("127.0.0.1", 0) as first:
            port = first.getsockname()[1]
            with open_listener("127.0.0.1", port, None) as second:
                assert port < second.getsockname()[1] < port + PORTS_TRIED
        assert f"Port {port} is taken." in capsys.readouterr().err

    def test_a_port_that_was_asked_for_is_not_replaced(self) -> None:
        """Who says --port gets that port or an error that says why not."""
        with listen("127.0.0.1", 0) as first, pytest.raises(SetupError, match="in use") as caught:
            open_listener("127.0.0.1", 8420, first.getsockname()[1])
        assert "port" in caught.value.hint

    def test_an_address_of_another_machine_is_an_error_at_once(self) -> None:
        """Only a taken port is worth trying the next; a wrong address is told."""
        with pytest.raises(SetupError, match=r"192\.0\.2\.77"):
            open_listener("192.0.2.77", 8420, None)

    def test_a_name_that_is_no_address_is_an_error(self) -> None:
        """A host that cannot be resolved does not end in a traceback."""
        with pytest.raises(SetupError, match=r"nowhere\.invalid"):
            listen("nowhere.invalid", 0)

    def test_ipv6_is_written_in_brackets(self) -> None:
        """An address in a URL is one that a browser takes."""
        assert url("::1", 8420) == "http://[::1]:8420"
        assert url("127.0.0.1", 80) == "http://127.0.0.1:80"


class TestSettings:
    def test_clients_are_told_the_port_that_is_served(self) -> None:
        """A client that discovers the provider at a free port, or at --port, is sent to no other server."""
        assert opened_up(Settings(port=8420), 8421, None).address == "http://localhost:8421"
        named = Settings(port=8420, public_url="https://api.example.com")
        assert opened_up(named, 8421, None).address == "https://api.example.com"


class TestGreeting:
    SETTINGS = Settings(database="/nowhere/data.db")

    def test_it_has_an_address_for_each_place(self) -> None:
        """This machine, the Android emulator and a phone each have the address that works there."""
        text = "\n".join(greeting("todo", self.SETTINGS, 8420, 0.4, "192.168.1.5", lan=True))
        for address in ("http://127.0.0.1:8420", "http://10.0.2.2:8420", "http://192.168.1.5:8420"):
            assert address in text
        assert "lowtide token --user ann" in text
        assert "--lan" not in text

    def test_phones_are_told_how_to_be_let_in(self) -> None:
        """Without --lan the address of the network is shown with what opens it."""
        text = "\n".join(greeting("todo", self.SETTINGS, 8420, 0.4, "192.168.1.5", lan=False))
        assert "lowtide dev --lan" in text
        text = "\n".join(greeting("todo", self.SETTINGS, 8420, 0.4, None, lan=False))
        assert "no network" in text

    def test_the_password_of_a_database_is_not_shown(self) -> None:
        """A PostgreSQL address holds a secret."""
        settings = Settings(database="postgresql://u:hunter2@db/app")
        assert "hunter2" not in "\n".join(greeting("todo", settings, 1, 0.4, None, lan=False))

    @pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "ascii", "cp1252"])
    def test_the_frame_fits_the_terminal(self, encoding: str) -> None:
        """Every line is equally long, and made of characters that the terminal knows."""
        framed = box(["one", "longer line"], encoding)
        assert len({len(line) for line in framed.splitlines()}) == 1
        assert framed.encode(encoding)
        assert "longer line" in framed


class TestWatching:
    def test_python_and_settings_are_watched_and_nothing_else(self, tmp_path: Path) -> None:
        """A write to the data, to a tool's folder or to another kind of file starts nothing."""
        for name in ("app.py", "lowtide.toml", "models/task.py"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("")
        for name in ("data/x.py", ".venv/x.py", "node_modules/x.py", "__pycache__/x.py", "notes.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("")
        seen = {str(path) for path, _ in watched(tmp_path)}
        assert seen == {"app.py", "lowtide.toml", "models/task.py"}

    def test_each_kind_of_change_is_seen(self, tmp_path: Path) -> None:
        """A changed, a new and a removed file each make a difference; looking again makes none."""
        app = tmp_path / "app.py"
        app.write_text("a = 1")
        os.utime(app, (1, 1))
        first = dict(watched(tmp_path))
        assert dict(watched(tmp_path)) == first
        app.write_text("a = 2")
        changed = dict(watched(tmp_path))
        assert changed != first
        (tmp_path / "more.py").write_text("")
        assert dict(watched(tmp_path)) != changed
        app.unlink()
        assert [str(path) for path in dict(watched(tmp_path))] == ["more.py"]

    def test_a_link_to_nowhere_is_no_error(self, tmp_path: Path) -> None:
        """An editor's lock file, which is a link to nothing, does not end the server."""
        (tmp_path / "#app.py").symlink_to("user@host.123")
        (tmp_path / ".#app.py").symlink_to("user@host.123")
        assert dict(watched(tmp_path)) == {}
