"""Mail, from the transaction that wants it sent to a real socket on which a server misbehaves."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from lowtide.auth.methods.addresses import email_address, phone_number
from lowtide.auth.methods.mail import Smtp, compose, mail_sender, mail_server
from lowtide.auth.methods.messages import Message, Messages
from lowtide.kernel.clock import ManualClock, SystemClock
from lowtide.kernel.errors import Malformed, NotSetUp, SetupError
from lowtide.kernel.ids import SystemIds
from lowtide.storage.bus import MemoryBus
from lowtide.storage.db import Database, Tx
from lowtide.storage.db.migrate import migrate
from lowtide.storage.jobs import COMPONENT as JOBS
from lowtide.storage.jobs import Hopeless, Job, Jobs, Worker
from lowtide.storage.vault import COMPONENT as STORAGE
from lowtide.storage.vault import Vault
from tests.auth.methods.smtp_server import MailServer, certificate

SENDER = mail_sender("Notes <no-reply@notes.example>")


def letter(to: str = "ann@example.com", *, subject: str = "Your code", until: int = 2**50) -> Message:
    return Message(
        channel="mail",
        to=to,
        subject=subject,
        text="The code is 1234 5678.\n.\nBye.\n",
        html="<p>1234</p>",
        until=until,
    )


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server called localhost, and of a client that trusts it."""
    return certificate(tmp_path_factory.mktemp("tls"))


def client(server: MailServer, scheme: str = "smtp", more: str = "?tls=none", **options: object) -> Smtp:
    user = options.pop("user", "")
    url = f"{scheme}://{user}localhost:{server.port}{more}"
    return Smtp(mail_server(url), SENDER, SystemClock(), **options)  # type: ignore[arg-type]


class TestAddresses:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            (" Ann@Example.COM ", "ann@example.com"),
            ("a.b+c@xn--bcher-kva.example", "a.b+c@xn--bcher-kva.example"),
        ],
    )
    def test_one_address_has_one_form(self, given: str, kept: str) -> None:
        """Case and spaces around do not make another address."""
        assert email_address(given) == kept

    @pytest.mark.parametrize(
        "given",
        [
            "",
            "ann",
            "ann@",
            "@example.com",
            "ann@example",
            "ann@exa mple.com",
            "ann@example.com\r\nBcc: eve@example.com",
            "ann@example.com, eve@example.com",
            '"ann"@example.com',
            "ann@[127.0.0.1]",
            "\uff41nn@example.com",
            "ann@example\uff45.com",
            "ann@" + "a" * 64 + ".com",
            "a" * 65 + "@example.com",
            "a@" + "b.c" * 100,
            "ann@example.com\0",
            "ann@-a.com",
            "\u0131@example.com",
        ],
    )
    def test_what_is_no_address_is_refused(self, given: str) -> None:
        """Two recipients, headers, look-alikes and lengths beyond the standard's are no address."""
        with pytest.raises(Malformed):
            email_address(given)

    def test_a_number_has_one_form(self) -> None:
        """What people put between the digits is left out."""
        assert phone_number(" +41 (44) 668-18.00") == "+41446681800"

    @pytest.mark.parametrize("given", ["", "+", "0446681800", "+0123456789", "+12345", "+1234567890123456"])
    @pytest.mark.parametrize("more", ["", "x", "\n", "٣"])
    def test_what_is_no_number_is_refused(self, given: str, more: str) -> None:
        """Only E.164, in ASCII digits."""
        with pytest.raises(Malformed):
            phone_number(given + more)


class TestSettings:
    @pytest.mark.parametrize(
        ("url", "place"),
        [
            ("smtp://mail.example.com", ("mail.example.com", 587, "starttls", "", "")),
            (
                "smtps://ann:p%40ss%3Aword@mail.example.com",
                ("mail.example.com", 465, "tls", "ann", "p@ss:word"),
            ),
            ("smtp://127.0.0.1:1025?tls=none", ("127.0.0.1", 1025, "none", "", "")),
            ("smtp://a:b@localhost:25?tls=none", ("localhost", 25, "none", "a", "b")),
        ],
    )
    def test_an_address_names_a_server(self, url: str, place: tuple[object, ...]) -> None:
        """The scheme says how the connection is secured, and which port it has where none is said."""
        assert msgspec.structs.astuple(mail_server(url)) == place

    @pytest.mark.parametrize(
        "url",
        [
            "mail.example.com:587",
            "http://mail.example.com",
            "smtp://",
            "smtp://host:port",
            "smtp://host/path",
            "smtp://host?tls=no",
            "smtps://host?tls=none",
            "smtp://ann:secret@mail.example.com?tls=none",
            "smtp://[::1",
        ],
    )
    def test_a_mistake_is_told_without_the_password(self, url: str) -> None:
        """What cannot be a server is told at the start, and a password never goes over a network in clear."""
        with pytest.raises(SetupError) as told:
            mail_server(url)
        assert "secret" not in told.value.message + told.value.hint

    @pytest.mark.parametrize("text", ["", "Notes", "no-reply@", "A <a@b.example>\r\nBcc: c@d.example"])
    def test_a_sender_is_an_address(self, text: str) -> None:
        """Without a sender no server would take a mail."""
        with pytest.raises(SetupError):
            mail_sender(text)


class TestComposing:
    @pytest.mark.parametrize("text", ["Hi\r\nBcc: eve@example.com", "Hi\nX: y", "Hi\rX: y"])
    def test_a_line_break_does_not_make_a_header(self, text: str) -> None:
        """Whoever chooses the app's name or a subject adds neither a header nor a recipient."""
        with pytest.raises(Hopeless):
            compose(letter(subject=text), SENDER, "n1", 0)

    def test_other_alphabets_arrive(self) -> None:
        """A subject beyond ASCII is encoded, and read back as it was."""
        mail = compose(letter(subject="Grüße 👋"), SENDER, "n1", 0)
        assert mail.as_bytes().isascii()
        assert mail["Subject"] == "Grüße 👋"


@pytest.mark.anyio
class TestSending:
    async def test_a_mail_arrives_whole(self) -> None:
        """Both texts, a line that is only a dot, who sends it, and an id that lasts over attempts."""
        async with MailServer().serving() as server:
            await client(server).carry(letter(), "job-1")
        (got,) = server.received
        assert (got.sender, got.recipients) == ("no-reply@notes.example", ["ann@example.com"])
        assert got.text().replace("\r\n", "\n") == letter().text
        assert got.text("html").strip() == "<p>1234</p>"
        assert got.mail["Message-ID"] == "<job-1@notes.example>"
        assert got.mail["Auto-Submitted"] == "auto-generated"

    async def test_starttls_is_used_and_the_login_comes_after(
        self, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        """The password goes through TLS only."""
        async with MailServer(contexts[0], {"app": "s3cret"}).serving() as server:
            await client(server, more="", user="app:s3cret@", context=contexts[1]).carry(letter(), "1")
        assert [(got.tls, got.user) for got in server.received] == [(True, "app")]

    async def test_tls_from_the_start(self, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
        """``smtps://`` speaks nothing before TLS."""
        async with MailServer(contexts[0]).serving(wrapped=True) as server:
            await client(server, "smtps", "", context=contexts[1]).carry(letter(), "1")
        assert [got.tls for got in server.received] == [True]

    async def test_without_starttls_nothing_is_said(self) -> None:
        """A server, or somebody between, that does not offer STARTTLS gets neither password nor mail."""
        async with MailServer(users={"app": "s3cret"}).serving() as server:
            with pytest.raises(Exception, match="STARTTLS"):
                await client(server, more="", user="app:s3cret@").carry(letter(), "1")
        assert server.received == []

    async def test_another_name_in_the_certificate_is_not_believed(
        self, tmp_path: Path, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        """The certificate is checked: its chain, and its name."""
        stranger, trusting = certificate(tmp_path, "other.example")
        for context in (contexts[1], trusting):
            async with MailServer(stranger).serving() as server:
                with pytest.raises(OSError, match="certificate"):
                    await client(server, more="", context=context).carry(letter(), "1")
            assert server.received == []

    @pytest.mark.parametrize(
        ("step", "answer"),
        [
            ("CONNECT", "421 too busy"),
            ("MAIL", "451 later"),
            ("MAIL", "550 this sender not"),
            ("RCPT", "450 greylisted"),
            ("DATA", "452 no room"),
            ("DATA END", "451 later"),
        ],
    )
    async def test_what_may_pass_is_tried_again(self, step: str, answer: str) -> None:
        """A 4xx, and what the operator can mend, fail the attempt and not the message."""
        async with MailServer().serving() as server:
            server.answers[step] = [answer]
            with pytest.raises(OSError if step == "CONNECT" else Exception) as failed:
                await client(server).carry(letter(), "1")
            assert not isinstance(failed.value, Hopeless)
            assert server.received == []
            await client(server).carry(letter(), "1")
        assert len(server.received) == 1

    @pytest.mark.parametrize(
        ("step", "answer"), [("RCPT", "550 nobody here"), ("DATA END", "554 this is spam")]
    )
    async def test_what_is_refused_for_good_is_hopeless(self, step: str, answer: str) -> None:
        """No attempt follows a recipient who does not exist, and what is kept does not name them."""
        async with MailServer().serving() as server:
            server.answers[step] = [answer]
            with pytest.raises(Hopeless) as failed:
                await client(server).carry(letter(), "1")
        assert "ann@example.com" not in str(failed.value)
        assert server.received == []

    @pytest.mark.parametrize("lines", [0, 3])
    async def test_a_connection_that_breaks_in_the_middle_is_tried_again(self, lines: int) -> None:
        """A mail of which half arrived was not sent."""
        async with MailServer().serving() as server:
            server.cut = lines
            with pytest.raises(ConnectionError) as failed:
                await client(server).carry(letter(), "1")
            assert not isinstance(failed.value, Hopeless)
            assert server.received == []

    async def test_a_server_that_is_not_there_is_tried_again(self) -> None:
        """A refused connection is a failed attempt."""
        async with MailServer().serving() as server:
            pass
        with pytest.raises(ConnectionError):
            await client(server).carry(letter(), "1")


class Post:
    """Messages on one database, with a worker."""

    def __init__(self, database: Database, clock: ManualClock | SystemClock):
        self.database = database
        ids = SystemIds(clock)
        bus = MemoryBus()
        self.jobs = Jobs(database, bus, clock, ids)
        self.vault = Vault(database, clock, ids, bytes(32))
        self.worker = Worker(database, bus, self.jobs, clock, ids, queues={"default": 4}, poll=0.1)
        self.clock = clock

    async def job(self) -> Job:
        """The one job that there is."""

        async def work(tx: Tx) -> list[Job]:
            counts = await self.jobs.counts(tx)
            assert sum(count.count for count in counts) == 1, counts
            return await self.jobs.dead(tx)

        found = await self.database.read(work)
        return found[0]

    async def until(self, status: str) -> None:
        """Wait until the one job is ``status``."""

        async def work(tx: Tx) -> list[str]:
            return [count.status for count in await self.jobs.counts(tx)]

        async with asyncio.timeout(20):
            while await self.database.read(work) != [status]:
                await asyncio.sleep(0.02)


@pytest.fixture
async def post(database: Database) -> AsyncIterator[Post]:
    """A queue with a worker that runs."""
    clock = SystemClock()
    await migrate(database, (JOBS, STORAGE), clock)
    made = Post(database, clock)
    await made.vault.load()
    yield made
    await made.worker.stop(1)


async def sent(post: Post, messages: Messages, letter: Message) -> None:
    await post.database.write(lambda tx: messages.send(tx, letter))
    messages.wake()


@pytest.mark.anyio
class TestQueue:
    async def test_a_mail_is_sent_after_its_transaction(self, post: Post) -> None:
        """What is rolled back is not sent; what is committed is, also when the first attempt fails."""

        async def undone(tx: Tx) -> None:
            await messages.send(tx, letter("eve@example.com"))
            raise Malformed

        async with MailServer().serving() as server:
            server.answers["RCPT"] = ["450 greylisted"]
            messages = Messages(post.jobs, post.vault, post.clock, {"mail": client(server)})
            with pytest.raises(Malformed):
                await post.database.write(undone)
            await post.worker.start()
            await sent(post, messages, letter())
            await post.until("done")
        assert [got.recipients for got in server.received] == [["ann@example.com"]]
        assert server.connections == 2

    async def test_what_waits_cannot_be_read(self, post: Post) -> None:
        """Neither the code nor the address stands in the database, or in a backup of it."""
        messages = Messages(post.jobs, post.vault, post.clock, {"mail": client(MailServer())})
        seen: list[str] = []

        async def work(tx: Tx) -> None:
            await messages.send(tx, letter())
            (found,) = await post.jobs.counts(tx)
            assert found.status == "waiting"
            from lowtide.storage.db import Query

            query = Query("payloads", "SELECT payload FROM job", "SELECT payload FROM job")
            seen.extend(row[0] for row in await tx.fetch(query))

        await post.database.write(work)
        assert seen
        assert not any(word in text for text in seen for word in ("1234", "ann", "code"))

    async def test_a_refused_recipient_is_a_dead_letter(self, post: Post) -> None:
        """After a 550 there is no second attempt, and the operator sees why."""
        async with MailServer().serving() as server:
            server.answers["RCPT"] = ["550 nobody here"] * 5
            messages = Messages(post.jobs, post.vault, post.clock, {"mail": client(server)})
            await post.worker.start()
            await sent(post, messages, letter())
            await post.until("dead")
        assert server.connections == 1
        assert "550" in str((await post.job()).error)

    async def test_what_is_late_is_not_sent(self, post: Post) -> None:
        """A code that has expired reaches nobody."""
        async with MailServer().serving() as server:
            messages = Messages(post.jobs, post.vault, post.clock, {"mail": client(server)})
            await post.worker.start()
            await sent(post, messages, letter(until=post.clock.now() - 1))
            await post.until("dead")
        assert server.connections == 0

    async def test_without_a_server_the_answer_says_what_to_set(self, post: Post) -> None:
        """A method that needs mail is refused at once, and nothing waits for ever."""
        messages = Messages(post.jobs, post.vault, post.clock, {})
        with pytest.raises(NotSetUp) as told:
            await post.database.write(lambda tx: messages.send(tx, letter()))
        assert "smtp_url" in told.value.hint
        assert await post.database.read(post.jobs.counts) == []
