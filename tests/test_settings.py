"""Settings: the file, the environment above it, and no key that nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowtide.kernel.errors import SetupError
from lowtide.settings import Settings, load, without_secrets


def written(folder: Path, text: str) -> Path:
    (folder / "lowtide.toml").write_text(text)
    return folder


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    """A folder without lowtide.toml has the defaults, with its database inside of it."""
    assert load(tmp_path, {}) == Settings(
        database=str(tmp_path / "data/data.db"), blobs=str(tmp_path / "data/blobs")
    )


def test_a_bucket_is_kept_as_it_is(tmp_path: Path) -> None:
    """A folder is looked for in the project's folder, an s3:// address is not."""
    settings = load(tmp_path, {"LOWTIDE_BLOBS": "s3://b/c", "LOWTIDE_AUDIT_CHECKPOINTS": "notes"})
    assert (settings.blobs, settings.audit_checkpoints) == ("s3://b/c", str(tmp_path / "notes"))


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """LOWTIDE_PORT replaces the file's port and leaves its host alone."""
    settings = load(
        written(tmp_path, 'port = 9000\nhost = "10.0.0.1"'), {"LOWTIDE_PORT": "9001", "PORT": "1"}
    )
    assert (settings.port, settings.host) == (9001, "10.0.0.1")


def test_lists_in_the_environment_are_split_at_commas(tmp_path: Path) -> None:
    """Blanks around a part do not count, nor do empty parts."""
    settings = load(tmp_path, {"LOWTIDE_ALLOWED_HOSTS": "a.example, b.example,", "LOWTIDE_WORKER": "false"})
    assert settings.allowed_hosts == ("a.example", "b.example")
    assert not settings.worker


def test_a_postgres_address_is_kept_as_it_is(tmp_path: Path) -> None:
    """Only a SQLite path is looked for in the project's folder."""
    address = "postgresql://u:p@db/app"
    settings = load(tmp_path, {"LOWTIDE_DATABASE": address})
    assert settings.postgres
    assert settings.database == address


@pytest.mark.parametrize(
    ("text", "environ", "message", "hint"),
    [
        ("prot = 1", {}, "Unknown setting 'prot'", "'port'"),
        ("[server]\nport = 1", {}, "Unknown setting 'server'", ""),
        ('public_url = "http://example.com"', {}, "'public_url'", "http://example.com"),
        ('public_url = "https://example.com/"', {}, "'public_url'", "https://example.com/"),
        ('public_url = "https://ann@example.com"', {}, "'public_url'", "ann@"),
        ('[[clients]]\nid = "a"', {}, "'clients'", "'a'"),
        ('[[clients]]\nid = "a"\nname = "A"\nredirect_uris = ["myapp:/cb"]', {}, "read backwards", "myapp"),
        ('[[clients]]\nid = "a"\nname = "A"\nsecret = "x"', {}, "unknown field", "secret"),
        ("", {"LOWTIDE_CLIENTS": "crew"}, "'clients'", "JSON list"),
        ('public_url = "api.example.com"', {}, "expected https://api.example.com", "'api.example.com'"),
        ("", {"LOWTIDE_DATABASE": "mysql://app:pw@db/app"}, "expected the path of", "mysql://app:...@db"),
        ("", {"LOWTIDE_DATABASE": "postgresql+asyncpg://db/app"}, "or postgresql://", "asyncpg"),
        ('database = ""', {}, "expected the path of", "''"),
        ("", {"LOWTIDE_ALLOWED_HOSTS": ","}, "'allowed_hosts'", "[]"),
        ('allowed_hosts = ["*"]', {}, "without a port", "'*'"),
        ('allowed_hosts = ["https://api.example.com"]', {}, "without https", "https://"),
        ('allowed_hosts = ["api.example.com:443"]', {}, "without a port", ":443"),
        ('cors_origins = ["app.example.com"]', {}, "expected origins", "'app.example.com'"),
        ('cors_origins = ["https://app.example.com/web"]', {}, "without a path", "/web"),
        ('trusted_proxies = ["*"]', {}, "'trusted_proxies' in", "'*'"),
        ("", {"LOWTIDE_TRUSTED_PROXIES": "10.0.0.1/8"}, "10.0.0.0/8", "'10.0.0.1/8'"),
        ("zzzzzz = 1", {}, "Unknown setting 'zzzzzz'", "allowed_hosts"),
        ("", {"LOWTIDE_DATABSE": "x"}, "Unknown setting 'databse' in environment", "'database'"),
        ("", {"LOWTIDE_": "x"}, "Unknown setting ''", ""),
        ('port = "80"', {}, "'port'", "'80'"),
        ("port = 65536", {}, "'port'", "65536"),
        ("port = true", {}, "'port'", "True"),
        ("", {"LOWTIDE_PORT": "http"}, "'port'", "'http'"),
        ("", {"LOWTIDE_PORT": ""}, "'port'", "''"),
        ('worker = "boss"', {}, "'worker'", "boss"),
        ("removals_kept_days = 0", {}, "'removals_kept_days'", "0"),
        ("port = ", {}, "not TOML", "quotes"),
        ("host = localhost", {}, "not TOML", "quotes"),
    ],
)
def test_a_mistake_is_told_with_what_was_probably_meant(
    tmp_path: Path, text: str, environ: dict[str, str], message: str, hint: str
) -> None:
    """Unknown keys, wrong types and broken files are a SetupError that names the place."""
    with pytest.raises(SetupError) as caught:
        load(written(tmp_path, text), environ)
    assert message in caught.value.message
    assert hint in caught.value.hint
    place = "environment" if environ else "lowtide.toml"
    assert place in caught.value.message


def test_a_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 do not end in a traceback."""
    (tmp_path / "lowtide.toml").write_bytes(b"port = \xff")
    with pytest.raises(SetupError, match="cannot be read"):
        load(tmp_path, {})


def test_the_starter_file_is_valid(tmp_path: Path) -> None:
    """What 'lowtide new' writes is what the defaults say, so that it may be changed line by line."""
    starter = Path(__file__).parent.parent / "src/lowtide/templates/lowtide.toml"
    defaults = load(tmp_path, {})
    assert load(written(tmp_path, starter.read_text()), {}) == defaults


def test_a_providers_secret_is_not_shown(tmp_path: Path) -> None:
    """Outside providers are set up by tables or, with their secrets, by JSON in the environment."""
    text = '[{"name": "okta", "issuer": "https://okta.example", "client_id": "c", "client_secret": "s3cret"}]'
    settings = load(tmp_path, {"LOWTIDE_UPSTREAMS": text})
    assert settings.upstreams[0].client_secret == "s3cret"
    assert "s3cret" not in repr(without_secrets(settings))
    assert without_secrets(settings).upstreams[0].client_id == "c"
    with pytest.raises(SetupError, match="upstreams"):
        load(tmp_path, {"LOWTIDE_UPSTREAMS": text.replace("okta.example", "okta.example/?x=1")})


def test_hosts_and_origins_of_every_kind_are_taken(tmp_path: Path) -> None:
    """What is refused is a mistake: literals, inner names, ports of one host and apps' schemes are none."""
    settings = load(
        tmp_path,
        {
            "LOWTIDE_ALLOWED_HOSTS": "Api.Example.com.,[::1],10.0.2.2,api_1",
            "LOWTIDE_CORS_ORIGINS": "*,http://localhost:*,capacitor://localhost,https://app.example.com/",
            "LOWTIDE_TRUSTED_PROXIES": "10.0.0.7,10.0.0.0/8,fd00::/8,0.0.0.0/0",
        },
    )
    lists = (settings.allowed_hosts, settings.cors_origins, settings.trusted_proxies)
    assert [len(one) for one in lists] == [4, 4, 4]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LOWTIDE_UPSTREAMS", '[{"nme": "okta", "client_secret": "s3cret"}]'),
        ("LOWTIDE_UPSTREAMS", '[{"name": "okta", "client_secret": "s3cret"'),
        ("LOWTIDE_CLIENTS", '[{"secret": "s3cret"}]'),
        ("LOWTIDE_DATABASE", "mysql://app:s3cret@db/app"),
    ],
)
def test_a_mistake_is_told_without_its_secrets(tmp_path: Path, name: str, text: str) -> None:
    """What is wrong is printed into terminals and logs: a secret in it is not."""
    with pytest.raises(SetupError) as caught:
        load(tmp_path, {name: text})
    assert "s3cret" not in caught.value.message + caught.value.hint


def test_clients_are_tables(tmp_path: Path) -> None:
    """In the file a table each; in the environment a JSON list, which replaces them."""
    file = written(
        tmp_path, '[[clients]]\nid = "crew"\nname = "Crew"\nredirect_uris = ["com.example.crew:/cb"]'
    )
    (client,) = load(file, {}).clients
    assert (client.id, client.name, client.first_party) == ("crew", "Crew", False)
    assert client.redirects_to("com.example.crew:/cb")
    text = '[{"id": "tides", "name": "Tides", "first_party": true}]'
    assert [client.id for client in load(file, {"LOWTIDE_CLIENTS": text}).clients] == ["tides"]


@pytest.mark.parametrize("url", ["", "https://a.example", "https://a.example:8443", "http://[::1]:80"])
def test_the_public_address_is_https_or_this_machine(tmp_path: Path, url: str) -> None:
    """Without one, it is this machine at the port."""
    settings = load(written(tmp_path, f'public_url = "{url}"'), {})
    assert settings.address == (url or "http://localhost:8420")
