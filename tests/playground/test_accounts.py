"""Accounts in the playground, in a real browser: a guest, a merge with queued writes, a sign-out.

One run of Chromium does it all (``tests/node/playground_account.mjs``); each test looks at a part of it.
"""

from __future__ import annotations

import pytest

from tests.playground.play import Seen, play

EMMAS = ["Passport", "Sunscreen", "Torch"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What the browser saw."""
    return play("playground_account", tmp_path_factory.mktemp("accounts"))


def notes(server: str) -> dict[str, str]:
    """The notes that the server's side shows, and whose each is."""
    lines = server.partition("Notes each its user")[2].partition("\n")[2].partition("Journal")[0].split()
    return dict(zip(lines[::2], lines[1::2], strict=True))


def test_a_new_address_is_the_guests_own(seen: Seen) -> None:
    """Who proves a mailbox that nobody has keeps the id of the guest, and what the guest wrote."""
    before, after = seen["upgraded"]["before"], seen["upgraded"]["after"]
    assert notes(seen["asGuest"]) == {"Passport": "guest"}
    assert (before["kind"], after["who"]["kind"]) == ("guest", "account")
    assert after["who"]["id"] == before["id"]
    assert after["notes"] == ["Passport"]
    assert "Guest" not in after["shown"]


def test_a_guests_edits_outlive_a_reload_without_a_network(seen: Seen) -> None:
    """The page comes anew, the guest is still there, one note waits; no other phone or the server has it."""
    reloaded = seen["reloaded"]
    assert reloaded["guest"]["who"] == seen["guest"]
    assert reloaded["guest"]["notes"] == ["Sunscreen", "Torch"]
    assert (reloaded["guest"]["waiting"], reloaded["guest"]["connected"]) == (1, False)
    assert reloaded["emma"]["notes"] == ["Passport"]
    assert notes(reloaded["server"]) == {"Passport": "emma", "Sunscreen": "guest"}


def test_nothing_is_sent_until_the_person_has_chosen(seen: Seen) -> None:
    """Signed in to an account that exists: neither Escape nor a reload is an answer, and the queue waits."""
    asked = seen["asked"]
    assert asked["phone"]["who"]["email"] == "emma@example.com"
    assert asked["phone"]["focus"] == "Bring it along"
    assert asked["phone"]["waiting"] == 1
    assert asked["uploads"] == 0
    assert asked["other"]["notes"] == ["Passport"]
    assert "Torch" not in asked["server"]


def test_what_the_guest_wrote_is_the_accounts_everywhere(seen: Seen) -> None:
    """Sent and queued, each once, on both phones; there is no trace of the guest, and others have nothing."""
    merged = seen["merged"]
    emma = seen["upgraded"]["after"]["who"]["id"]
    for phone in (merged["a"], merged["b"]):
        assert phone["notes"] == EMMAS
        assert phone["users"] == [emma]
        assert seen["guest"]["id"] not in phone["held"]
        assert "Guest" not in phone["shown"]
        assert "Refused" not in phone["shown"]
    assert merged["c"]["notes"] == []
    assert not any(note in merged["c"]["shown"] + merged["c"]["held"] for note in EMMAS)
    assert notes(merged["server"]) == dict.fromkeys(EMMAS, "emma")


def test_an_account_is_in_the_team_on_all_its_phones(seen: Seen) -> None:
    """Let in by one switch and put out by it: the team's rows come and go on both, and the notes stay."""
    for phone in seen["inTeam"]:
        assert "kitchen" in phone["shown"]
        assert "Firewood" in phone["held"]
        assert phone["notes"] == EMMAS
    for phone in seen["revoked"]:
        assert "kitchen" not in phone["shown"]
        assert "Firewood" not in phone["held"]
        assert phone["notes"] == EMMAS
        assert phone["rows"] == 2 * len(EMMAS)


def test_a_sign_out_asks_for_what_is_unsent(seen: Seen) -> None:
    """It counts the changes, and leaves all as it was until told; what cannot be sent is not thrown away."""
    assert "A change is not sent yet" in seen["unsent"]["shown"]
    assert seen["unsent"]["who"]["kind"] == "account"
    assert seen["stayed"]["notes"] == [*EMMAS, "Matches"]
    assert seen["stayed"]["waiting"] == seen["failed"]["waiting"] == 1
    assert seen["failed"]["notes"] == [*EMMAS, "Matches"]


def test_a_sign_out_leaves_an_empty_phone(seen: Seen) -> None:
    """No row in any table, nothing on the screen, nothing in the queue: and the page says so."""
    thrown = seen["thrown"]
    assert (thrown["rows"], thrown["notes"], thrown["waiting"], thrown["held"]) == (0, [], 0, "")
    assert "its database has 0 rows" in thrown["shown"]
    assert not any(word in thrown["shown"] for word in (*EMMAS, "Matches", "emma"))


def test_whoever_is_next_sees_nothing_of_the_one_before(seen: Seen) -> None:
    """Another account on the same phone begins with an empty database, and sends nothing of before."""
    fred = seen["fred"]
    assert (fred["who"]["email"], fred["notes"], fred["held"]) == ("fred@example.com", [], "")
    assert not any(word in fred["shown"] for word in (*EMMAS, "Matches", "emma"))
    assert seen["emmaThen"]["notes"] == EMMAS
    assert not any(word in seen["emmaThen"]["held"] for word in ("Matches", "Rope", "Map", fred["who"]["id"]))
    assert (seen["guestAgain"]["notes"], seen["guestAgain"]["held"]) == ([], "")


def test_the_server_hears_of_a_sign_out(seen: Seen) -> None:
    """With a network the session is ended there, too, and the wire shows the answer."""
    assert (seen["signedOut"]["fate"], seen["signedOut"]["status"]) == ("answered", 204)


def test_what_is_left_behind_is_sent_by_nobody(seen: Seen) -> None:
    """A guest's unsent note is on no phone and not on the server; what was sent before a sign-out is."""
    left = seen["left"]
    assert left["a"]["notes"] == left["b"]["notes"] == EMMAS
    assert "Secret" not in left["b"]["held"] + left["b"]["shown"]
    assert notes(left["server"]) == dict.fromkeys(EMMAS, "emma") | {"Rope": "fred", "Map": "fred"}


def test_a_sign_out_holds_in_every_tab(seen: Seen) -> None:
    """The same phone in another tab shows nobody, too, and none of the notes."""
    assert (seen["tab"]["rows"], seen["tab"]["notes"], seen["tab"]["held"]) == (0, [], "")
    assert "Nobody is signed in" in seen["tab"]["shown"]
    assert "Passport" not in seen["tab"]["shown"]


def test_starting_over_forgets_the_accounts_of_the_phones(seen: Seen) -> None:
    """A phone begins as a new guest's, without a note; the server has none of the playground's left."""
    over = seen["over"]
    assert (over["guest"]["who"]["kind"], over["guest"]["notes"]) == ("guest", [])
    assert "Passport" not in over["server"]
    assert over["kept"] == []


def test_no_page_said_a_word(seen: Seen) -> None:
    """No error of a script, no breach of a policy."""
    assert seen["faults"] == []
