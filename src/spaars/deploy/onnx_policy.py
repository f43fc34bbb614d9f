"""An exported policy as an ONNX graph: written with `onnx`, run with ONNX Runtime."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from spaars.data.sources.safety import needs, one_line
from spaars.deploy.graph import Step
from spaars.deploy.numpy_policy import (
    DESCRIPTION,
    FORMAT,
    MAX_DESCRIPTION,
    NORM_EPSILON,
    NumpyPolicy,
    PolicyError,
)

# Old enough for runtimes on robots: LayerNormalization came with 17.
OPSET, IR_VERSION = 17, 8


def onnx_bytes(
    steps: list[Step], arrays: dict[str, np.ndarray], description: dict[str, Any]
) -> bytes:
    """The model: `observations` (n, obs) float32 to `actions` (n, act), and `gate_advantage`.

    What the policy is stands in the metadata: each entry of `about` by its name, and everything
    as JSON under `policy.json`.
    """
    onnx = needs("onnx", "onnx", "writing ONNX")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes: list[Any] = []
    constants = dict(arrays)

    def constant(value: float) -> str:
        name = f"constant/{np.float32(value)!r}"
        constants[name] = np.array(value, np.float32)
        return name

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    for step in steps:
        x, a, out = step["inputs"], step["arrays"], step["output"]
        if step["op"] == "standardise":
            node("Div", [node("Sub", [x[0], a[0]], f"{out}/centred"), a[1]], out)
        elif step["op"] == "linear":
            node("Gemm", [x[0], *a], out)
        elif step["op"] == "layer_norm":
            node("LayerNormalization", [x[0], *a], out, axis=-1, epsilon=NORM_EPSILON)
        elif step["op"] in ("relu", "tanh", "arctanh"):
            node({"relu": "Relu", "tanh": "Tanh", "arctanh": "Atanh"}[step["op"]], x, out)
        elif step["op"] == "scale":
            node("Mul", [x[0], constant(step["by"])], out)
        elif step["op"] == "clip":
            node("Clip", [x[0], constant(step["low"]), constant(step["high"])], out)
        elif step["op"] == "bound":
            node("Min", [node("Max", [x[0], a[0]], f"{out}/low"), a[1]], out)
        elif step["op"] == "concatenate":
            node("Concat", x, out, axis=1)
        elif step["op"] == "where_positive":
            is_open = node("Greater", [x[0], constant(0.0)], f"{out}/open")
            node("Where", [is_open, x[1], x[2]], out)
        elif step["op"] == "paired_advantage":
            half = len(x) // 2
            raw = node("Concat", x[:half], f"{out}/q_raw", axis=1)
            decoded = node("Concat", x[half:], f"{out}/q_decoded", axis=1)
            delta = node("Sub", [raw, decoded], f"{out}/delta")
            mean = node("ReduceMean", [delta], f"{out}/mean", axes=[1])
            centred = node("Sub", [delta, mean], f"{out}/centred")
            square = node("Mul", [centred, centred], f"{out}/square")
            variance = node("ReduceMean", [square], f"{out}/variance", axes=[1])
            std = node("Sqrt", [variance], f"{out}/std")
            doubt = node("Mul", [std, constant(step["pessimism"])], f"{out}/doubt")
            lower = node("Sub", [mean, doubt], f"{out}/lower")
            node("Sub", [lower, constant(step["margin"])], out)
        else:
            raise AssertionError(step["op"])

    def value(name: str, width: int) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", width])

    outputs = [value("actions", description["action_dim"])]
    if any(step["output"] == "gate_advantage" for step in steps):
        outputs.append(value("gate_advantage", 1))
    used = {name for n in nodes for name in n.input}
    graph = helper.make_graph(
        nodes,
        "policy",
        [value("observations", description["observation_dim"])],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used],
    )
    model = helper.make_model(
        graph,
        producer_name="spaars",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    properties = {
        name: entry if isinstance(entry, str) else json.dumps(entry)
        for name, entry in description["about"].items()
    }
    helper.set_model_props(model, properties | {DESCRIPTION: json.dumps(description)})
    onnx.checker.check_model(model)
    buffer = io.BytesIO()
    onnx.save_model(model, buffer)
    return buffer.getvalue()


class OnnxPolicy(NumpyPolicy):
    """As `NumpyPolicy`, of an .onnx file that `spaars export` wrote, by ONNX Runtime on the CPU."""

    def __init__(self, path: str | Path):
        """Raises PolicyError if `path` is no whole exported policy."""
        runtime = needs("onnxruntime", "onnx", "running ONNX")
        if not Path(path).is_file():
            raise PolicyError(f"{path}: no such file.")
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # a broken file is told once, by us
        try:
            self.session = runtime.InferenceSession(
                Path(path).read_bytes(), options, providers=["CPUExecutionProvider"]
            )
            known = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:  # ONNX Runtime raises a class of its own for every kind
            raise PolicyError(
                f"{path}: not a whole ONNX file ({one_line(error)}). Copy or export it again."
            ) from error
        try:
            if len(text := known[DESCRIPTION]) > MAX_DESCRIPTION:
                raise ValueError(f"{DESCRIPTION} of {len(text):,} bytes")
            description = json.loads(text)
            if description["format"] != FORMAT:
                raise ValueError(f"format {description['format']!r}")
            self._describe(description)
            shapes = {"observations": [self.observation_dim], "actions": [self.action_dim]}
            found = {
                value.name: value.shape[1:]
                for value in (*self.session.get_inputs(), *self.session.get_outputs())
                if value.name != "gate_advantage"
            }
            if found != shapes:
                raise ValueError(f"inputs and outputs {found}, not {shapes}")
        except (KeyError, TypeError, ValueError, RecursionError, AttributeError) as error:
            raise PolicyError(
                f"{path}: an ONNX file, but no policy of `spaars export` ({one_line(error)})."
            ) from error
        self.reset()

    def _run(self, graph: str, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, values), strict=True))
