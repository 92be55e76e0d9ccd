"""The scripts that complete commands."""

import shutil
import subprocess

import pytest

from serve_app.cli.main import main


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_script_completes_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("doctor", "unload", "--key-file", "completion"):
        assert word.removeprefix("--") in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "bash"])
    asked = "COMP_WORDS=(model-runtime doc); COMP_CWORD=1; _shtab_model_runtime; echo ${COMPREPLY[@]}"
    script = f"{capsys.readouterr().out}\n{asked}"
    ran = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["doctor"], ran.stderr
