"""What the launcher hands over by environment variables is read back as it was written."""

from pathlib import Path

from deployments.replica.launcher_profile import LauncherProfile

PROFILE = LauncherProfile(Path("/private"))


def test_a_replica_finds_the_profile_that_the_launcher_set() -> None:
    environment = PROFILE.environment("/venv/bin/model-runtime-haproxy")
    binary, configuration = (environment[f"RAY_SERVE_HAPROXY_{name}"] for name in ("BINARY_PATH", "CONFIG_FILE_LOC"))
    assert LauncherProfile.found(binary, configuration) == PROFILE


def test_another_haproxy_than_the_launchers_has_no_profile() -> None:
    assert LauncherProfile.found("", "/tmp/haproxy-serve/haproxy.cfg") is None
    assert LauncherProfile.found("/usr/sbin/haproxy", "/private/haproxy.cfg") is None


def test_haproxy_finds_the_profile_from_its_nodes_configuration() -> None:
    assert LauncherProfile.around(Path("/private/node-1/haproxy.cfg")) == PROFILE
