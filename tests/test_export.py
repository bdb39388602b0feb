"""Programs made of the models: torch.fx, torch.compile, torch.export, ONNX. One program serves every size."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from deeplab_lesson import create_model, list_models

EXAMPLE = (2, 3, 65, 97)
OTHERS = [(1, 3, 33, 33), (3, 3, 65, 97), (2, 3, 96, 64)]  # odd and even, and 33 is the smallest
OPEN = {"images": {0: Dim("batch", min=1), 2: Dim("height", min=33), 3: Dim("width", min=33)}}
TRUNKS = ["deeplabv3plus_resnet18", "deeplabv3plus_mobilenetv3", "deeplabv3plus_xception65"]


def build(name: str, **options: object) -> nn.Module:
    """A model in eval mode; without the classifier's bias, which would drown what an untrained network says."""
    torch.manual_seed(0)
    model = create_model(name, 5, **options).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return model


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def assert_near(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert got.shape == want.shape
    assert got.isfinite().all()
    assert (got - want).norm() <= tolerance * want.norm()


# torch.fx -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_models("*_mini"))
def test_symbolic_trace_computes_what_the_model_does_at_every_size(name):
    model = build(name)
    traced = torch.fx.symbolic_trace(model)
    with torch.no_grad():
        for shape in OTHERS:
            assert torch.equal(traced(noise(*shape)), model(noise(*shape)))


@pytest.mark.parametrize("name", ["deeplabv3plus_mini", "pspnet_mini", "unet_mini"])
def test_symbolic_trace_keeps_the_checks(name):
    traced = torch.fx.symbolic_trace(build(name))
    with pytest.raises(ValueError, match=r"32x64.*at least 33"):
        traced(noise(1, 3, 32, 64))
    with pytest.raises(TypeError, match=r"torch.uint8.*normalized"):
        traced(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_symbolic_trace_in_training_still_refuses_a_batch_of_one():
    traced = torch.fx.symbolic_trace(build("deeplabv3plus_mini").train())
    with pytest.raises(ValueError, match="batch has one image"):
        traced(noise(1, 3, 64, 64))


# torch.compile --------------------------------------------------------------------------------------------------


@pytest.fixture
def compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("compiler")
def test_compiled_graph_is_whole_and_serves_several_sizes():
    model = build("deeplabv3plus_mini")
    graphs = []

    def remember(graph: torch.fx.GraphModule, example_inputs: list[object]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, backend=remember, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for shape in [EXAMPLE, (3, 3, 33, 33), (2, 3, 96, 64), (4, 3, 50, 129)]:
            assert_near(compiled(noise(*shape)), model(noise(*shape)), 1e-5)
    assert len(graphs) == 1, "a new size is not compiled anew"


@pytest.mark.usefixtures("compiler")
def test_compiled_model_refuses_what_the_model_refuses():
    compiled = torch.compile(build("deeplabv3plus_mini"), backend="eager")
    with torch.no_grad(), pytest.raises(ValueError, match=r"32x64.*at least 33"):
        compiled(noise(1, 3, 32, 64))


@pytest.mark.slow  # C++ for every fused kernel: minutes the first time
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("options", [{}, {"separable": True}, {"decoder": False}], ids=str)
def test_machine_code_computes_what_the_model_does(options):
    model = build("deeplabv3plus_mini", **options)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for shape in [EXAMPLE, *OTHERS]:
            assert_near(compiled(noise(*shape)), model(noise(*shape)), 1e-5)


# torch.export ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deeplabv3plus_mini", {}),
        ("deeplabv3plus_mini", {"decoder": False}),
        ("deeplabv3plus_mini", {"separable": True}),
        ("deeplabv3plus_mini", {"output_stride": 4}),  # the decoder's two maps have one size
        ("deeplabv3_mini", {"head": "cascade"}),
        *((name, {}) for name in TRUNKS),
    ],
    ids=str,
)
def test_exported_program_computes_what_the_model_does_at_every_size(name, options):
    model = build(name, **options)
    program = torch.export.export(model, (noise(*EXAMPLE),), dynamic_shapes=OPEN).module()
    with torch.no_grad():
        for shape in OTHERS:
            assert_near(program(noise(*shape)), model(noise(*shape)), 1e-6)


def test_program_exported_from_even_sides_takes_odd_ones():
    """ResNet's pooling at stride 2 would be fixed to even sides; see `ResNetTrunk`."""
    model = build("deeplabv3plus_resnet18")
    program = torch.export.export(model, (noise(2, 3, 96, 64),), dynamic_shapes=OPEN).module()
    with torch.no_grad():
        for side in range(33, 41):
            assert_near(program(noise(1, 3, side, 48)), model(noise(1, 3, side, 48)), 1e-6)


def test_program_of_one_size_keeps_the_trunks_own_pooling():
    program = torch.export.export(build("deeplabv3plus_resnet18"), (noise(1, 3, 64, 64),))
    pools = [node for node in program.graph.nodes if "max_pool2d" in str(node.target)]
    assert [node.args[1:3] for node in pools] == [([3, 3], [2, 2])]


# ONNX -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deeplabv3plus_mini", {}),
        ("deeplabv3plus_resnet18", {}),
        pytest.param("deeplabv3plus_mini", {"decoder": False}, marks=pytest.mark.slow),
        pytest.param("deeplabv3plus_mini", {"separable": True}, marks=pytest.mark.slow),
        pytest.param("deeplabv3plus_mobilenetv3", {}, marks=pytest.mark.slow),
        pytest.param("deeplabv3plus_xception65", {}, marks=pytest.mark.slow),
        pytest.param("deeplabv3plus_resnet50", {}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_onnx_runtime_computes_what_the_model_does_at_every_size(name, options, tmp_path: Path):
    for needed in ("onnx", "onnxscript"):
        pytest.importorskip(needed)
    onnxruntime = pytest.importorskip("onnxruntime")
    model = build(name, **options)
    torch.onnx.export(
        model, (noise(*EXAMPLE),), tmp_path / "model.onnx", dynamo=True, dynamic_shapes=OPEN, verbose=False
    )
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", settings, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    assert images.shape == ["batch", 3, "height", "width"]
    with torch.no_grad():
        for shape in OTHERS:
            (logits,) = session.run(None, {images.name: noise(*shape).numpy()})
            assert_near(torch.from_numpy(logits), model(noise(*shape)), 1e-4)
