"""The server's home: the one folder that holds keys, credentials, the bus's storage and everything derived.

`create_home` mints what is missing and changes nothing that is there; every secret is made with its final name at
once, so that a crash or a second starter leaves no half-made file. `Home` only reads.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from fleetlog_runtime.pure.signing import Signer
from fleetlog_runtime.shell import nats_auth
from fleetlog_runtime.shell.files import create_private, private_folder

SECRETS = ("token", "ticket", "blob", "route")
"""Keyed hashes of attempts, sessions and content, and what nodes of a cluster know each other by; 32 random bytes each."""
_FOLDERS = (
    "keys", "creds", "nats", "nats/jetstream", "nats/jwt", "gateway", "reporter", "snapshots", "agents", "run", "diagnostics",
)
_BASE_CLAIMS_AGE_SECONDS = 3_600
"""The agents' account JWT kept in the home is dated back, so that any revocation pushed later counts as newer."""


class HomeError(Exception):
    """The home lacks something; the message says what to do."""


def default_path() -> Path:
    """Return where the home is unless `--data` says otherwise."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "fleetlog"


class Home:
    """One server's folder."""

    def __init__(self, path: Path | str) -> None:
        """Stand for the folder at *path*, which need not exist yet."""
        self.path = Path(path).absolute()

    def creds_path(self, user: str) -> Path:
        """Return the credentials file of a service user, `operator` or `sys`."""
        return self.path / "creds" / f"{user}.creds"

    def seed(self, name: str) -> bytes:
        """Return a secret NATS seed: `operator`, `account-core`, `agents-scope` and so on. Raises HomeError."""
        return self._read(f"keys/{name}.seed")

    def secret(self, name: str) -> bytes:
        """Return the 32 bytes of one of SECRETS. Raises HomeError."""
        if name not in SECRETS:
            raise HomeError(f"there is no secret {name!r}, only {', '.join(SECRETS)}")
        return self._read(f"keys/{name}.key")

    def signer(self) -> Signer:
        """Return the key that agents obey. Raises HomeError."""
        return Signer(self._read("keys/signing.seed"))

    def nats_urls(self) -> list[str]:
        """Return where clients reach the bus, the node of this home first. Raises HomeError when it never ran."""
        return self._read("nats/url").decode().split()

    def nats_url(self) -> str:
        """Return where clients reach the node of this home. Raises HomeError when it never ran."""
        return self.nats_urls()[0]

    def gateway_url(self) -> str:
        """Return where the gateway serves. Raises HomeError when it never ran."""
        return self._read("gateway/url").decode().strip()

    def gateway_token(self) -> str:
        """Return the bearer token made on first start. Raises HomeError."""
        return self._read("gateway/token").decode().strip()

    def tls_ca(self) -> Path | None:
        """Return the certificate authority's file, or None when the bus speaks without TLS."""
        url = self.path / "nats" / "url"
        speaks_tls = url.exists() and url.read_bytes().startswith(b"tls:")
        return self.ca_path if speaks_tls else None

    @property
    def ca_path(self) -> Path:
        """Where the authority's certificate is once there is one."""
        return self.path / "tls" / "ca.pem"

    def exists(self) -> bool:
        """Tell whether `create_home` has finished here."""
        return (self.path / "gateway" / "token").exists()

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            raise HomeError(
                f"{self.path / name} is missing: start the system once with `fleetlog up --data {self.path}`,"
                " or name its folder with --data"
            ) from None
        except OSError as error:
            raise HomeError(f"cannot read {self.path / name}: {error.strerror}") from None


def create_home(path: Path | str) -> Home:
    """Mint every missing key and credential of a home and return it; what is there stays as it is.

    Raises:
        HomeError: the folder cannot be written.
    """
    home = Home(path)
    try:
        private_folder(home.path)
        for folder in _FOLDERS:
            private_folder(home.path / folder)
        _mint_keys(home)
        _mint_credentials(home)
        # Last: its presence says that the home is whole.
        create_private(home.path / "gateway" / "token", f"flt_{secrets.token_urlsafe(32)}\n".encode())
    except OSError as error:
        raise HomeError(f"cannot make the home {home.path}: {error.strerror} ({error.filename})") from None
    return home


def _mint_keys(home: Home) -> None:
    keys = home.path / "keys"
    for name in SECRETS:
        create_private(keys / f"{name}.key", os.urandom(32))
    create_private(keys / "signing.seed", os.urandom(32))
    create_private(keys / "operator.seed", nats_auth.new_seed("operator"))
    accounts = ("account-sys", "account-core", "account-agents")
    scopes = ("agents-scope", *(f"{user}-scope" for user in nats_auth.SERVICE_USERS))
    for name in accounts + scopes:
        create_private(keys / f"{name}.seed", nats_auth.new_seed("account"))


def _mint_credentials(home: Home) -> None:
    core = nats_auth.public_key(home.seed("account-core"))
    for user in nats_auth.SERVICE_USERS:
        if not home.creds_path(user).exists():
            seed = nats_auth.new_seed("user")
            jwt = nats_auth.scoped_user_jwt(home.seed(f"{user}-scope"), core, user, nats_auth.public_key(seed))
            create_private(home.creds_path(user), nats_auth.credentials(jwt, seed).encode())
    if not home.creds_path("sys").exists():
        seed = nats_auth.new_seed("user")
        jwt = nats_auth.free_user_jwt(
            home.seed("account-sys"), "sys", nats_auth.public_key(seed), ["$SYS.REQ.CLAIMS.UPDATE"]
        )
        create_private(home.creds_path("sys"), nats_auth.credentials(jwt, seed).encode())
    base = agents_account_jwt(home, {}, int(time.time()) - _BASE_CLAIMS_AGE_SECONDS)
    create_private(home.path / "nats" / "agents.jwt", base.encode())


def agent_user_jwt(home: Home, host_id: str, public_key: str) -> str:
    """Return the JWT that lets the agent with this key in, as *host_id*."""
    account = nats_auth.public_key(home.seed("account-agents"))
    return nats_auth.agent_user_jwt(home.seed("agents-scope"), account, host_id, public_key)


def agents_account_jwt(home: Home, revocations: dict[str, int], issued_s: int | None = None) -> str:
    """Return the agents' account with these revocations (public key to Unix seconds), to push to the bus as `sys`."""
    return nats_auth.agents_account_jwt(
        home.seed("operator"), home.seed("account-agents"), nats_auth.public_key(home.seed("account-core")),
        home.seed("agents-scope"), revocations, issued_s,
    )


ADMIN_RIGHTS = {
    "account-core": ("$JS.API.>", "$JS.SNAPSHOT.>"),
    "account-sys": ("$SYS.REQ.SERVER.*.KICK", "$SYS.REQ.SERVER.PING.JSZ"),
}
"""Of the one who makes streams, and of the one who manages nodes and their connections."""


def admin_credentials(home: Home, account: str = "account-core", rights: tuple[str, ...] = ()) -> tuple[str, bytes]:
    """Return a fresh JWT and seed with the ADMIN_RIGHTS of an account, or *rights*; made when needed, kept nowhere."""
    seed = nats_auth.new_seed("user")
    allowed = list(rights or ADMIN_RIGHTS[account])
    jwt = nats_auth.free_user_jwt(home.seed(account), "admin", nats_auth.public_key(seed), allowed)
    return jwt, seed
