"""The composition root: the one place that knows every component, and how they are wired."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

import lowtide
from lowtide.api.contract import Contract
from lowtide.api.edge import Edge
from lowtide.api.health import health_routes
from lowtide.api.limits import Load
from lowtide.api.logs import AccessLog
from lowtide.api.origins import Hosts, Origins
from lowtide.api.problems import problem_routes
from lowtide.api.rates import Rates
from lowtide.api.versions import read_versions
from lowtide.audit import Audit, Chain, Entry
from lowtide.audit.archive import Archive
from lowtide.audit.checkpoints import Checkpoints
from lowtide.audit.keys import AuditKeys
from lowtide.audit.routes import audit_routes
from lowtide.audit.trail import Trail
from lowtide.auth import Accounts, Keys, Proofs, Tokens, auth_routes
from lowtide.auth.account_routes import account_routes
from lowtide.auth.admin import Admin
from lowtide.auth.admin_routes import admin_routes
from lowtide.auth.attestation import Accepted, Attestation, attestation_routes, read_console_keys
from lowtide.auth.challenges import Challenges
from lowtide.auth.deletion import Deletion
from lowtide.auth.lost import LostWays
from lowtide.auth.lost_routes import lost_routes
from lowtide.auth.merging import Merging
from lowtide.auth.methods import Methods, outbox_routes
from lowtide.auth.outside import Outside
from lowtide.auth.own import Own
from lowtide.auth.passkeys import Passkeys, lies_on, passkey_routes, passkey_site
from lowtide.auth.proofs import SharedProofs
from lowtide.auth.provider import PageWays, Provider
from lowtide.auth.provider.discovery import UPSTREAM
from lowtide.auth.routes import key_routes
from lowtide.auth.wellknown import check_apple_apps, read_android_apps, well_known_routes
from lowtide.bridges import Bridges, bridge_routes
from lowtide.bridges.versions import read_oldest
from lowtide.declare.app import App
from lowtide.kernel.clock import Clock, SystemClock
from lowtide.kernel.http import Route
from lowtide.kernel.ids import Ids, SystemIds
from lowtide.opening import (
    apple_credentials,
    audit_origin,
    open_blobs,
    open_bus,
    open_carriers,
    open_database,
    open_egress,
    open_tokens,
    open_vault,
)
from lowtide.records import Records, records_routes
from lowtide.settings import Settings, without_secrets
from lowtide.storage.db import Tx
from lowtide.storage.db.migrate import MigrationState, migrate
from lowtide.storage.jobs import Job, Jobs, Worker
from lowtide.storage.once import Once
from lowtide.storage.rates import SharedRates
from lowtide.storage.vault import PUBLISHED, Noted
from lowtide.sync import Sync, sync_routes
from lowtide.sync.deploy import deploy
from lowtide.sync.grants import GrantTrail
from lowtide.sync.retention import Retention
from lowtide.sync.writer import Told
from lowtide.tables import COMPONENTS, SEALED
from lowtide.webhooks import MAX_ENDPOINTS, QUEUE, RECORDS_QUEUE, RecordChange, Webhooks, webhook_routes

log = logging.getLogger("lowtide")

JOBS_AT_ONCE = 16
MESSAGES_AT_ONCE = 8
"""Messages to webhooks: a receiver that does not answer holds up no other job."""
QUEUES = {"default": JOBS_AT_ONCE, QUEUE: MESSAGES_AT_ONCE, RECORDS_QUEUE: MAX_ENDPOINTS}
RESEAL = "lowtide.reseal"
HOUR, DAY = 3_600.0, 86_400.0


class Lowtide:
    """A whole backend. ``start`` it, serve ``asgi``, ``stop`` it."""

    def __init__(self, settings: Settings, app: App, clock: Clock, ids: Ids, *, dev: bool = False):
        schema = app.compile()
        self.settings = settings
        self.clock = clock
        self.ids = ids
        self.database = open_database(settings, clock, ids)
        self.bus = open_bus(settings, clock, ids)
        self.jobs = Jobs(self.database, self.bus, clock, ids)
        self.audit = Audit(clock, ids)
        self.chain = Chain(self.audit, self.database, ids)
        self.vault = open_vault(settings, self.database, clock, ids)
        self.egress = open_egress(settings)
        self.audit_keys = AuditKeys(self.database, self.vault, clock, ids, audit_origin(app.name))
        self.blobs = open_blobs(settings, settings.blobs, ids)
        notes = settings.audit_checkpoints
        self._notes = open_blobs(settings, notes, ids) if notes else None
        self.checkpoints = Checkpoints(self.chain, self.audit_keys, clock, self._notes)
        self._archive = Archive(
            self.database, self.blobs, self.audit_keys, self.audit, clock, settings.audit_kept_days
        )
        self.rates = SharedRates(self.database, clock)
        self.once = Once(self.database, clock, self.vault)
        self.webhooks = Webhooks(
            self.database,
            self.jobs,
            self.vault,
            self.egress,
            self.audit,
            clock,
            ids,
            models=[name for name, model in schema.models.items() if not model.removed],
        )
        self.audit.tell = self.webhooks.heard
        self.keys = Keys(self.database, clock, self.vault, self.audit)
        self.tokens: Tokens
        self.proofs = Proofs(clock, lambda: self.keys.derive("dpop"), public_url=settings.public_url)
        self.challenges = Challenges(self.vault, clock, ids)
        self.shared_proofs = SharedProofs(self.proofs, self.database, self.challenges, clock)
        self.accounts = Accounts(
            self.database,
            self.bus,
            self.jobs,
            self.vault,
            self.audit,
            clock,
            ids,
            lambda: self.tokens,
            schema.hooks,
        )
        self.methods = Methods(
            self.database,
            self.jobs,
            self.vault,
            self.rates,
            self.audit,
            clock,
            ids,
            self.accounts,
            self.shared_proofs,
            lambda token: self.tokens.verify(token),
            open_carriers(settings, self.database, clock, self.egress, dev),
            app=app.name,
            public_url=settings.public_url,
            dev=dev,
            leaked=Path(settings.leaked_passwords) if settings.leaked_passwords else None,
            sms_prefixes=settings.sms_prefixes,
            sms_per_hour=settings.sms_per_hour,
        )
        self.sync = Sync(
            schema, self.database, self.bus, self.jobs, clock, ids, bar=self.accounts.revocations.bar
        )
        self.bridges = Bridges(self.sync, clock, read_oldest(settings.bridge_schemas))
        self.webhooks.watch = self.sync.watch
        self.sync.writer.changed = self._changed
        self.sync.writer.granted = GrantTrail(self.audit).told
        self.merging = Merging(
            self.database, self.accounts, self.sync.ownership, self.jobs, lambda: self.tokens, clock
        )
        self.deletion = Deletion(self.database, self.accounts, self.sync.ownership, self.jobs, clock)
        self._retention = Retention(
            self.database, clock, settings.removals_kept_days, settings.journal_kept_days
        )
        self.jobs.register(RESEAL, type(None), self._reseal, deadline=HOUR)
        self.load = Load()
        self._versions = read_versions(settings.min_app_versions)
        self._android = read_android_apps(settings.android_apps)
        self._apple = check_apple_apps(settings.apple_apps)
        on_site = lies_on(settings.address, settings.passkey_rp_id)
        own = (settings.address,) if on_site else ()
        self.passkeys = Passkeys(
            self.database,
            self.challenges,
            self.accounts.users,
            self.accounts.sessions,
            self.accounts.hooks,
            self.audit,
            clock,
            ids,
            passkey_site(
                settings.passkey_rp_id,
                app.name,
                (*settings.passkey_origins, *own, *(one.origin for one in self._android)),
            ),
        )
        self.accounts.sign_in.credentials.append(self.passkeys)
        self.outside = Outside(
            self.database,
            self.egress,
            self.vault,
            self.jobs,
            self.challenges,
            self.accounts,
            clock,
            ids,
            apple_credentials(settings),
            apple=settings.apple_client_ids,
            google=settings.google_client_ids,
            upstreams=settings.upstreams,
            address=settings.address,
            redirects=(*settings.app_redirects, settings.address + UPSTREAM),
        )
        self.accounts.sign_in.credentials.append(self.outside.apple)
        self.provider = Provider(
            self.database,
            self.accounts,
            self.keys,
            lambda: self.keys.derive("forms"),
            lambda: self.tokens,
            self.shared_proofs,
            PageWays(
                self.accounts.sign_in,
                self.methods.email,
                self.methods.passwords,
                self.methods.seconds,
                self.passkeys,
                self.outside.upstreams,
                on_site=on_site,
            ),
            clock,
            address=settings.address,
            app=app.name,
            title=app.name,
            clients=settings.clients,
        )
        self.deletion.more |= {"passkey": self.passkeys.list, "app": self.provider.consents.list}
        self.attestation = Attestation(
            self.database,
            self.challenges,
            clock,
            Accepted(
                apple_apps=self._apple,
                android_apps=self._android,
                play=read_console_keys(settings.play_decryption_key, settings.play_verification_key),
                development=settings.attestation_development,
            ),
        )
        self.asgi: Edge
        self._development: list[Route] = []
        if dev:
            # No part of what serves in production; it reads files, which is not for the loop of ``start``.
            from lowtide.playground import playground_routes

            playground = playground_routes(app.name, self.sync, lambda: self.tokens)
            self._development = [*outbox_routes(self.database), *playground]
        self._name = app.name
        self._schema = schema
        self._schedule()
        self._worker = Worker(self.database, self.bus, self.jobs, clock, ids, queues=QUEUES)
        self._opened = AsyncExitStack()

    def _schedule(self) -> None:
        """What is done again and again: once in each period, on one of the nodes that run jobs."""
        every = self.jobs.every
        every(HOUR, "lowtide.audit_checkpoint", self.checkpoints.write)
        every(DAY, "lowtide.audit_archive", self._archive.run, deadline=HOUR)
        every(HOUR, "lowtide.purge_jobs", self.jobs.forget, deadline=HOUR / 2)
        every(HOUR, "lowtide.purge_once", self.once.purge, deadline=HOUR / 2)
        every(HOUR / 6, "lowtide.purge_rates", self.rates.purge, deadline=HOUR / 12)
        every(HOUR / 6, "lowtide.purge_flows", self.methods.codes.purge)
        every(HOUR / 6, "lowtide.sweep_oauth", self.provider.sweep)
        every(HOUR * 6, "auth.trim", self.accounts.trim, deadline=HOUR / 6)
        if self.settings.apple_key_file:
            every(HOUR / 2, "apple.sweep", self.outside.apple.sweep)
        every(HOUR, "sync.trim", self._retention.trim, deadline=HOUR / 2)
        every(HOUR, "bridges.trim", self.bridges.trim, deadline=HOUR / 2)
        every(HOUR, "webhooks.sweep", self.webhooks.sweep)

    async def _changed(self, tx: Tx, now: int, told: Sequence[Told]) -> bool:
        """The writer's changes, as webhooks hear of them."""
        changes = [RecordChange(*key, op, before, after) for key, op, before, after in told]
        return await self.webhooks.changed(tx, now, changes)

    async def start(self) -> None:
        """Open the database, bring it up to date, put the schema into force, begin to work.

        Raises ``SetupError`` for what the operator or the developer must mend, ``StorageLost``.
        """
        try:
            await self._open()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Finish what was accepted, and close what was opened, the last first."""
        await self._opened.aclose()

    async def rotate_secrets(self, told: Noted) -> None:
        """Make a new data key; a job seals what is stored with it once every node knows it.

        ``told`` is called in the transaction of the new key.
        """
        await self.vault.rotate(told)
        # Longer than the vault waits, so that the new key is the one that seals.
        due = self.clock.now() + (PUBLISHED + 60) * 1000
        await self.database.write(lambda tx: self.jobs.enqueue(tx, RESEAL, run_at=due))

    async def _reseal(self, _job: Job, _payload: None) -> None:
        log.info("sealed %d secrets anew", await self.vault.reseal(SEALED))

    async def _open(self) -> None:
        opened = self._opened
        await self.database.start()
        opened.push_async_callback(self.database.close)
        migrated = await migrate(self.database, COMPONENTS, self.clock)
        opened.push_async_callback(self.blobs.close)
        if self._notes is not None:
            opened.push_async_callback(self._notes.close)
        await self.vault.load()
        self._background(self.vault.keep(), "lowtide-vault")
        await self.audit_keys.load()
        self.audit.pepper = self.audit_keys.pepper
        opened.push_async_callback(self.chain.close)
        self._background(self.chain.keep(), "lowtide-audit")
        await self._note_migrations(migrated)
        await self._note_settings()
        for change in await deploy(self.database, self._schema, self.clock, _report, self.audit):
            log.warning("the app changed: %s", change)
        opened.callback(self.egress.close)
        await self.bus.start()
        opened.push_async_callback(self.bus.close)
        await self.keys.load()
        self.tokens = open_tokens(
            self.settings, self.keys, self.clock, self._name, self.accounts.revocations.changes
        )
        await self.accounts.load()
        self._background(self.accounts.revocations.keep(), "lowtide-sessions")
        self._background(self.keys.keep(self.ids), "lowtide-keys")
        opened.push_async_callback(self.methods.close)
        await self.sync.start()
        opened.push_async_callback(self.sync.close)
        if self.settings.worker:
            await self._worker.start()
            opened.push_async_callback(self._worker.stop)
        self.asgi = self._edge()
        self.accounts.revocations.on_change = self.asgi.end_sessions
        self.keys.on_gone = self.asgi.end_refused

    async def _note_migrations(self, done: list[MigrationState]) -> None:
        if done:
            names = [f"{one.component}/{one.number:04}_{one.name}" for one in done]
            entry = Entry(
                action="database.migrate", actor="system", via="start", target="database", after=names
            )
            await self.database.write(lambda tx: self.audit.write(tx, entry))

    async def _note_settings(self) -> None:
        # A command that holds the database runs no jobs: that is no other setting.
        chosen = msgspec.to_builtins(without_secrets(msgspec.structs.replace(self.settings, worker=True)))
        entry = Entry(action="settings.change", actor="system", via="start", target="settings", after=chosen)
        if await self.database.write(lambda tx: self.audit.write_change(tx, entry)):
            log.info("the settings are not those of the last start")

    def _background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._opened.push_async_callback(_end, asyncio.create_task(work, name=name))

    def _edge(self) -> Edge:
        async def answers() -> bool:
            await self.sync.head()
            return True

        trail = Trail(self.audit, self.database)
        routes = [
            *health_routes({"database": answers}, self.load),
            *problem_routes(),
            *auth_routes(self.keys),
            *self.methods.routes(),
            *self.provider.routes(),
            *key_routes(self.keys, trail),
            *passkey_routes(self.passkeys, self.accounts.sign_in, self.methods.signing),
            *self.outside.routes(self.methods.signing),
            *account_routes(
                self.accounts,
                Own(self.database, self.accounts),
                self.merging,
                self.deletion,
                self.shared_proofs,
                self.rates,
            ),
            *admin_routes(Admin(self.database, self.accounts), self.deletion, trail),
            *lost_routes(
                LostWays(
                    self.database,
                    self.accounts,
                    self.methods.passwords,
                    self.methods.seconds,
                    self.passkeys,
                    self.methods.messages,
                    self.clock,
                    app=self._name,
                )
            ),
            *attestation_routes(self.attestation),
            *well_known_routes(self._android, self._apple, self.settings.app_paths),
            *sync_routes(self.sync, trail, self._versions.check_said),
            *audit_routes(trail, self.checkpoints, self.database),
            *webhook_routes(self.webhooks, self.audit, trail, self.jobs.wake),
            *records_routes(Records(self.sync, self.clock, self.ids), self.clock, trail),
            *bridge_routes(self.bridges, self.clock),
        ]
        routes = self.attestation.guard(routes, self.settings.attestation, self.settings.attestation_routes)
        if self.settings.reference:
            routes += Contract(routes, self._schema, lowtide.__version__).routes()
        return Edge(
            [*routes, *self._development],
            authenticate=self.tokens.verify,
            clock=self.clock,
            ids=self.ids,
            hosts=Hosts(self.settings.allowed_hosts),
            access=AccessLog(self.clock, self.ids),
            origins=Origins(self.settings.cors_origins),
            load=self.load,
            prove=self.proofs.check,
            versions=self._versions,
            once=self.once,
            rates=Rates(self.clock, self.settings.rate_limits) if self.settings.rate_limits else None,
        )


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _report(model: str, records: int) -> None:
    log.info("renewing %s under the new schema: %d records", model, records)


def build(settings: Settings, app: App, *, dev: bool = False) -> Lowtide:
    """The backend that ``settings`` and ``app`` describe; nothing is opened yet.

    ``dev``: as ``lowtide dev`` serves it, with an outbox in place of what is not set up; for development
    only. Raises ``DeclarationError`` for an app that cannot work, ``SetupError`` for wrong settings.
    """
    clock = SystemClock()
    return Lowtide(settings, app, clock, SystemIds(clock), dev=dev)
