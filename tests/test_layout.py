"""The rules of the house: which folder imports which, and how large a folder and a file may be."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
SOURCES = sorted(file for folder in ("serve_app", "deployments") for file in (PROJECT / folder).rglob("*.py"))
TREES = ("serve_app", "deployments", "tests", "benchmarks", "training")
MOST_MODULES = 17
MOST_LINES = 300

ARROWS = """
serve_app.access → contract
serve_app.app → config contract dispatch families http ingress metrics node registry replica repository
serve_app.autoscaling → replica
serve_app.bench → contract replica
serve_app.bulk → access config contract dispatch families replica repository
serve_app.capacity → config replica system
serve_app.changes → capacity config replica system
serve_app.check → capacity config contract front replica repository system
serve_app.cli → access bench bulk check client config contract doctor families local node replica top
serve_app.client → contract
serve_app.config → access contract families
serve_app.dispatch → access contract replica repository system
serve_app.doctor → capacity check config families front http local_ray replica repository residency system
serve_app.front → config contract http replica system
serve_app.grpc → access config contract families http
serve_app.http → access config contract replica
serve_app.ingress → access capacity config contract dispatch grpc http metrics registry replica runtime system traces
serve_app.local → app changes client config contract families front http local_ray replica sample supervisor system
serve_app.local_ray → capacity changes http system
serve_app.node → capacity config contract http replica supervisor system
serve_app.registry → contract dispatch repository
serve_app.runtime → access contract dispatch metrics replica
serve_app.sample → client contract replica
serve_app.supervisor → front system
serve_app.top → contract
serve_app.traces → contract
deployments.contract → –
deployments.engines → contract system
deployments.families → contract engines metrics replica repository residency system validation
deployments.metrics → contract
deployments.replica → contract metrics repository residency system validation
deployments.repository → contract
deployments.residency → contract repository system
deployments.system → –
deployments.validation → contract repository system
"""
"""Who imports whom, folder by folder; a module beside the folders counts as one. Any change here is a decision."""

RAY = {
    "deployments/families/text_generation/metrics.py",
    "deployments/metrics/aggregator.py",
    "deployments/metrics/meter.py",
    "deployments/metrics/requests.py",
    "deployments/replica/context.py",
    "deployments/replica/gpu.py",
    "serve_app/app.py",
    "serve_app/autoscaling.py",
    "serve_app/bulk.py",
    "serve_app/config/serve_file.py",
    "serve_app/dispatch/broadcast.py",
    "serve_app/dispatch/connections.py",
    "serve_app/dispatch/handle_transport.py",
    "serve_app/dispatch/replica_pool.py",
    "serve_app/dispatch/serve_internals.py",
    "serve_app/doctor/worker.py",
    "serve_app/ingress.py",
    "serve_app/local.py",
    "serve_app/local_ray.py",
    "serve_app/registry/actor.py",
    "serve_app/registry/admin.py",
    "serve_app/registry/mirror.py",
}
"""The only modules that import Ray. None imports torch or transformers but the engines."""


TESTED_BY = {
    "serve_app/dispatch/serve_internals.py": "tests/serve_app/dispatch/test_replica_pool.py",
    "serve_app/http/openai/parsing/delta.py": "tests/serve_app/http/openai/parsing/test_output.py",
    "serve_app/doctor/findings.py": "tests/serve_app/doctor/test_machine.py",
    "serve_app/grpc/stubs/inference_pb2.py": "tests/serve_app/grpc/test_messages.py",
    "serve_app/grpc/stubs/open_inference_pb2.py": "tests/serve_app/grpc/test_oip_service.py",
    "serve_app/grpc/stubs/inference_pb2_grpc.py": "tests/serve_app/grpc/test_service.py",
    "serve_app/http/interfaces.py": "tests/serve_app/http/test_app.py",
    "serve_app/ingress.py": "tests/runtime/test_operation.py",
    "deployments/contract/chat.py": "tests/deployments/contract/test_wire.py",
    "deployments/contract/scalars.py": "tests/deployments/contract/test_wire.py",
    "deployments/contract/status.py": "tests/serve_app/registry/test_status.py",
    "deployments/contract/speech.py": "tests/deployments/contract/test_wire.py",
    "deployments/contract/chunk.py": "tests/serve_app/dispatch/test_pending.py",
    "deployments/contract/text_generation.py": "tests/deployments/contract/test_wire.py",
    "deployments/contract/types.py": "tests/deployments/contract/test_wire.py",
    "deployments/engines/audio/files.py": "tests/deployments/engines/audio/test_decoding.py",
    "deployments/engines/audio/flow.py": "tests/deployments/engines/audio/test_whisper.py",
    "deployments/engines/audio/loading.py": "tests/deployments/engines/audio/test_engine.py",
    "deployments/engines/audio/piecewise.py": "tests/deployments/engines/audio/test_ctc.py",
    "deployments/engines/audio/seq2seq.py": "tests/deployments/engines/audio/test_engine.py",
    "deployments/engines/audio/transcript.py": "tests/deployments/engines/audio/test_whisper.py",
    "deployments/engines/embedding/openvino_encoder.py": "tests/deployments/engines/embedding/test_openvino_convert.py",
    "deployments/engines/conversion_worker.py": "tests/deployments/engines/test_conversion.py",
    "deployments/engines/measuring.py": "tests/deployments/engines/vision/test_compilation.py",
    "deployments/engines/openvino_model.py": "tests/deployments/engines/embedding/test_openvino_convert.py",
    "deployments/engines/openvino_export.py": "tests/deployments/engines/embedding/test_openvino_convert.py",
    "deployments/engines/text/paged_library.py": "tests/deployments/engines/text/test_paged.py",
    "deployments/engines/text/openvino/compiled.py": "tests/deployments/engines/text/openvino/test_convert_worker.py",
    "deployments/engines/vision/forward.py": "tests/deployments/engines/vision/test_compilation.py",
    "deployments/families/images/replica.py": "tests/deployments/families/image_classification/test_replica.py",
    "deployments/families/table.py": "tests/serve_app/test_app.py",
    "deployments/metrics/samples.py": "tests/deployments/metrics/test_totals.py",
    "deployments/repository/drafts.py": "tests/deployments/repository/test_adapters.py",
    "deployments/replica/calls.py": "tests/deployments/replica/test_socket_server.py",
    "deployments/validation/golden.py": "tests/deployments/validation/test_golden_validator.py",
    "deployments/validation/sandbox_worker.py": "tests/deployments/validation/test_sandbox.py",
}
"""Types without behaviour, children's programs and thin shells: by the file that tests them."""


def modules_below(tree: str) -> list[Path]:
    """Not those of the environments that the benchmarks' peers have in their folders."""
    return [file for file in (PROJECT / tree).rglob("*.py") if "site-packages" not in file.parts]


def name_of(file: Path) -> str:
    return file.relative_to(PROJECT).as_posix()


@cache
def imports(file: Path) -> Sequence[str]:
    """Every module a file imports at run time, wherever in the file."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(file)} imports relatively"
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return found


def folder_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _room(imported: str) -> str | None:
    """The folder of the module of ours that is imported, if it is one of ours."""
    parts = imported.split(".")
    for depth in range(len(parts), 0, -1):
        place = PROJECT.joinpath(*parts[:depth])
        if place.with_suffix(".py").is_file():
            return ".".join(parts[: depth - 1])
        if (place / "__init__.py").is_file():
            return ".".join(parts[:depth])
    return None


def importers(package: str) -> set[str]:
    return {
        name_of(file)
        for file in SOURCES
        if any(module == package or module.startswith(package + ".") for module in imports(file))
    }


def test_folders_import_as_the_plan_says() -> None:
    seen: dict[str, set[str]] = {}
    for file in SOURCES:
        module = name_of(file).removesuffix(".py").replace("/", ".")
        if file.name == "__init__.py" and len(module.split(".")) == 2:
            continue
        here = folder_of(module)
        ours = {folder_of(name) for name in imports(file) if name.startswith(("serve_app.", "deployments."))}
        seen.setdefault(here, set()).update(ours - {here})
    lines = [
        f"{here} → {' '.join(sorted(name.split('.')[1] for name in below)) or '–'}" for here, below in seen.items()
    ]
    assert sorted(lines) == sorted(ARROWS.strip().splitlines())


def test_no_folder_is_in_a_circle() -> None:
    """At any depth: `engines.text` → `openvino` → `decoders`, `http.openai` → `http`."""
    left: dict[str, set[str]] = defaultdict(set)
    for file in SOURCES:
        here = ".".join(file.relative_to(PROJECT).parent.parts)
        left[here] |= {room for name in imports(file) if (room := _room(name)) is not None and room != here}
    while left:
        free = [name for name, below in left.items() if not below & left.keys()]
        assert free, f"a circle among {sorted(left)}"
        left = {name: below for name, below in left.items() if name not in free}


def test_only_the_named_modules_import_ray() -> None:
    assert importers("ray") == RAY


def test_only_engines_import_torch_and_transformers() -> None:
    for package in ("torch", "transformers"):
        assert {name for name in importers(package) if not name.startswith("deployments/engines/")} == set()


def test_the_environment_is_read_nowhere() -> None:
    for file in SOURCES:
        text = file.read_text("utf-8")
        for node in ast.walk(ast.parse(text)) if "environ" in text or "getenv" in text else ():
            read = isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.getenv", "os.environ.get")
            read |= isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ"
            assert not read, f"{name_of(file)}:{node.lineno}"  # type: ignore[attr-defined]


def test_the_contract_needs_neither_torch_nor_ray() -> None:
    files = [name_of(file) for file in SOURCES if file.parent.name == "contract"]
    modules = [file.removesuffix(".py").replace("/", ".") for file in files]
    heavy = "{'torch', 'ray', 'transformers'}"
    check = f"import sys, {', '.join(modules)}; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], cwd=PROJECT, check=False).returncode == 0


@pytest.mark.slow
def test_composing_the_application_does_not_import_torch() -> None:
    check = "import sys, serve_app.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=PROJECT, check=False).returncode == 0


def test_a_file_fits_in_one_reading() -> None:
    python = [file for tree in TREES for file in modules_below(tree)]
    assert {name_of(file) for file in python if len(file.read_text("utf-8").splitlines()) > MOST_LINES} == set()


def test_a_folder_holds_few_modules() -> None:
    held: dict[str, int] = defaultdict(int)
    for tree in TREES:
        for file in modules_below(tree):
            held[name_of(file.parent)] += file.name != "__init__.py"
    assert {folder: count for folder, count in held.items() if count > MOST_MODULES} == {}


def test_each_module_is_tested_by_the_file_of_its_name_in_the_same_place() -> None:
    modules = [name_of(file) for file in SOURCES if file.name != "__init__.py"]
    expected = {module: "tests/{}/test_{}".format(*module.rsplit("/", 1)) for module in modules}
    missing = {module for module, test in expected.items() if not (PROJECT / test).is_file()}
    assert missing == TESTED_BY.keys()
    assert [test for test in TESTED_BY.values() if not (PROJECT / test).is_file()] == []
