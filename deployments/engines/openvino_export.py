"""A module of torch in OpenVINO's format. Nothing is fetched, and nothing is reported: this calls OpenVINO's frontend
directly. `openvino.convert_model` sends telemetry for each conversion."""

from typing import Any

import torch


def exported(module: torch.nn.Module, arguments: tuple[Any, ...], dynamic_shapes: Any) -> Any:
    """OpenVINO's model. `dynamic_shapes`: of torch.export, for each argument. Raises whatever torch and OpenVINO raise
    for a module that they cannot take."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    with torch.no_grad():
        program = torch.export.export(module, arguments, dynamic_shapes=dynamic_shapes)
        decoder = TorchFXPythonDecoder.from_exported_program(program)
    frontend = FrontEndManager().load_by_framework("pytorch")
    return frontend.convert(frontend.load(decoder))
