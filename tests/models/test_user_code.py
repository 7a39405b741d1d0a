"""Models that are code of the user: what they may return, whose memory they see, and what their digest covers."""

import dataclasses
import functools
import json
import pickle
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softlabels import models
from softlabels.errors import InvalidArgument, InvalidLogits, ModelFailed
from softlabels.models import OutputHead, as_model
from softlabels.sources import Ragged
from tests.warm import run

SAMPLE = np.arange(12, dtype=np.float32).reshape(4, 3)


@dataclasses.dataclass
class Outputs:
    logits: object
    hidden: object = None


class WithLogits:
    def __init__(self, logits):
        self.logits = logits


class Named(NamedTuple):
    logits: object
    box_logits: object


def model_output(logits):
    from transformers.modeling_outputs import SequenceClassifierOutput

    return SequenceClassifierOutput(loss=torch.zeros(()), logits=logits, hidden_states=(logits, logits))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: t.requires_grad_(),
        lambda t: t.numpy(),
        lambda t: t.numpy().astype(">f4"),
        lambda t: np.broadcast_to(t.numpy(), t.shape),
        lambda t: (t,),
        lambda t: [t],
        lambda t: (torch.zeros(()), t),
        lambda t: (t, (t, t)),
        lambda t: (t, None),
        lambda t: {"logits": t},
        lambda t: {"logits": t.numpy(), "unused": None},
        Outputs,
        WithLogits,
        model_output,
    ],
)
def test_what_a_teacher_may_return(wrap):
    model = as_model(lambda x: wrap(2 * x.clone()), sample=SAMPLE)
    assert model.heads == {"logits": OutputHead(classes=3)}
    logits = model.predict(SAMPLE)["logits"]
    assert not logits.requires_grad
    np.testing.assert_array_equal(logits.numpy(), 2 * SAMPLE)


def test_a_mapping_names_the_heads():
    model = as_model(lambda x: Named(x, x.reshape(-1, 1, 3).repeat(1, 5, 1)), sample=SAMPLE)
    assert model.heads == {
        "logits": OutputHead(classes=3),
        "box_logits": OutputHead(classes=3, kind="tokens", shape=(5,)),
    }
    assert {name: tuple(output.shape) for name, output in model.predict(SAMPLE).items()} == {
        "logits": (4, 3),
        "box_logits": (4, 5, 3),
    }


def test_declared_heads_select_the_outputs():
    class Teacher(torch.nn.Module):
        heads = {"map": OutputHead(classes=2, kind="pixels", shape=(1, 3))}  # noqa: RUF012  a constant of the test

        def forward(self, x):
            return {"map": x[:, None, :, None].expand(-1, 1, 3, 2), "other": torch.zeros(())}

    model = as_model(Teacher(), sample=SAMPLE)
    assert model.heads == Teacher.heads
    assert model.predict(SAMPLE)["map"].shape == (4, 1, 3, 2)


def test_ragged_rows_have_an_output_per_position():
    ragged = Ragged(np.arange(10), np.array([1, 0, 9]))
    model = as_model(lambda inputs: inputs.values[:, None] * torch.ones(7), sample=ragged)
    assert model.heads == {"logits": OutputHead(classes=7, kind="tokens", shape=(None,))}
    assert model.predict(Ragged(np.arange(4), np.array([4])))["logits"].shape == (4, 7)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no", "unsupported output, got str; expected a tensor or array"),
        (None, "unsupported output, got NoneType"),
        ({}, "unsupported output, got dict with no keys"),
        ({"logits": "x"}, "head 'logits' is not an array, got str"),
        ((torch.zeros(4, 2), torch.zeros(4, 3)), r"ambiguous output, got tuple of Tensor \(4, 2\), Tensor \(4, 3\)"),
        (torch.zeros(4), r"head 'logits' has an unknown layout, got shape \(4,\); expected \(B, C\)"),
        (torch.zeros(4, 2, 3, 5), "Declare other layouts"),
        (torch.zeros(3, 2), r"another shape for 4 rows, got \(3, 2\); expected \(4, 2\)"),
        (torch.zeros(4, 2, dtype=torch.complex64), "unsupported dtype, got torch.complex64; expected real numbers"),
        (np.array([["a"]] * 4), "unsupported dtype, got <U1; expected numbers"),
        (torch.zeros(4, 2).to_sparse(), "is not dense, got torch.sparse_coo"),
        (torch.zeros(4, 0), "classes of a head: out of range, got 0"),
    ],
)
def test_other_outputs_are_typed_errors(value, message):
    with pytest.raises((InvalidLogits, InvalidArgument), match=message) as caught:
        as_model(lambda _: value, sample=SAMPLE)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301  our own bytes


def test_a_later_batch_of_another_shape_is_refused():
    widths = iter([3, 3, 2])
    model = as_model(lambda x: x[:, : next(widths)], sample=SAMPLE)
    model.predict(SAMPLE)
    with pytest.raises(InvalidLogits, match=r"head 'logits' has another shape for 4 rows, got \(4, 2\); expected"):
        model.predict(SAMPLE)


class Hostile:
    """A teacher with one output buffer, which overwrites its inputs, and everything it returned, at each call."""

    def __init__(self, form):
        self.form = form
        self.returned = []
        self.buffer = torch.empty(64, 3)

    def __call__(self, inputs):
        for tensor in self.returned:
            tensor.fill_(-7)
        out = self.buffer[: len(inputs)]
        torch.mul(inputs, 2, out=out)
        inputs.fill_(-5)
        self.returned = [inputs, out]
        return {
            "tensor": out,
            "view": out[:, :],
            "array": out.numpy(),
            "dict": {"logits": out},
            "input": inputs.copy_(out),
        }[self.form]


@given(
    form=st.sampled_from(["tensor", "view", "array", "dict", "input"]),
    sizes=st.lists(st.integers(1, 16), min_size=1, max_size=8),
    as_tensors=st.booleans(),
    read_only=st.booleans(),
)
def test_no_memory_is_shared_with_code_of_the_user(form, sizes, as_tensors, read_only):
    data = np.random.default_rng(0).normal(size=(sum(sizes), 3)).astype(np.float32)
    original = data.copy()
    data.flags.writeable = not read_only
    model = as_model(Hostile(form), sample=data[:1])
    batches, start = [], 0
    for size in sizes:
        inputs = data[start : start + size]
        batches.append(model.predict(torch.from_numpy(inputs.copy()) if as_tensors else inputs)["logits"])
        for earlier in batches[:-1]:
            earlier.add_(0)  # the caller may write to what it got
        start += size
    np.testing.assert_array_equal(torch.cat(batches).numpy(), 2 * original)
    np.testing.assert_array_equal(data, original)


def test_tensors_of_the_caller_are_not_overwritten():
    model = as_model(lambda x: x.mul_(0), sample=SAMPLE)
    inputs = torch.ones(2, 3)
    model.predict(inputs)
    assert (inputs == 1).all()


def test_a_module_keeps_its_modes_and_device():
    frozen = torch.nn.BatchNorm1d(3).eval()
    module = torch.nn.Sequential(frozen, torch.nn.Dropout(0.5), torch.nn.Linear(3, 2)).train()
    frozen.eval()
    model = as_model(module, sample=SAMPLE).to("cpu")
    assert (model.predict(SAMPLE)["logits"] == model.predict(SAMPLE)["logits"]).all(), "dropout was off"
    assert [layer.training for layer in module] == [False, True, True]
    assert module.training
    module(torch.from_numpy(SAMPLE)).sum().backward()
    assert module[2].weight.grad is not None


def test_a_function_sees_inputs_on_the_device_that_was_asked_for():
    devices = []

    def teacher(inputs):
        devices.append(inputs.device.type)
        return torch.zeros(len(inputs), 2)

    model = as_model(teacher, sample=SAMPLE)
    model.to("meta").predict(SAMPLE[:0])
    assert devices == ["cpu", "meta"]
    with pytest.raises(InvalidArgument, match="device: cannot be used, got 'nonsense'"):
        model.to("nonsense")


def test_a_failing_teacher_shows_its_own_line_and_both_shapes(tmp_path):
    (tmp_path / "failing_teacher.py").write_text(
        "import torch\nnet = torch.nn.Linear(7, 2)\n\ndef teacher(x):\n    return net(x.float())  # here\n"
    )
    code = (
        "from softlabels import models; import numpy as np; "
        "models.load('python:failing_teacher:teacher', sample=np.zeros((4, 3)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "ModelFailed: python:failing_teacher:teacher: the model raised RuntimeError" in done.stderr
    assert "(failing_teacher.py:5: return net(x.float())" in done.stderr
    assert "mat1 and mat2 shapes cannot be multiplied (4x3 and 7x2)" in done.stderr
    assert "got inputs of shape (4, 3), dtype float64" in done.stderr


def test_a_model_of_another_dtype_than_the_data_gets_advice():
    with pytest.raises(ModelFailed, match=r"convert them in the model, as with inputs\.float\(\)"):
        as_model(torch.nn.Linear(3, 2), sample=SAMPLE.astype("float64"))


def test_errors_of_the_model_can_be_pickled():
    def teacher(inputs):
        raise KeyError("boom")

    with pytest.raises(ModelFailed, match="KeyError: 'boom'") as caught:
        as_model(teacher, sample=SAMPLE)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301  our own bytes


class Scaled(torch.nn.Module):
    def __init__(self, scale=1.0, *, persistent=False):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        torch.nn.init.ones_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)
        self.register_buffer("scale", torch.tensor(scale), persistent=persistent)

    def forward(self, x):
        return self.linear(x * self.scale)


def test_the_digest_covers_buffers_that_are_not_persistent():
    digests = {scale: as_model(Scaled(scale), sample=SAMPLE).digest for scale in (1.0, 2.0)}
    assert digests[1.0] != digests[2.0]
    assert digests[1.0] == as_model(Scaled(1.0), sample=SAMPLE).digest


def test_the_digest_covers_networks_behind_a_function():
    def teacher_of(net):
        return lambda x: net(x)  # noqa: PLW0108  the closure is the subject

    nets = [Scaled(), Scaled()]
    with torch.no_grad():
        nets[1].linear.weight[0, 0] += 1
    first, second = (as_model(teacher_of(net), sample=SAMPLE) for net in nets)
    assert first.digest != second.digest
    assert first.digest == as_model(teacher_of(Scaled()), sample=SAMPLE).digest
    bound, partial = (
        as_model(wrapped, sample=SAMPLE).digest
        for wrapped in (nets[1].forward, functools.partial(lambda net, x: net(x), nets[1]))
    )
    assert bound != as_model(nets[0].forward, sample=SAMPLE).digest
    assert partial != as_model(functools.partial(lambda net, x: net(x), nets[0]), sample=SAMPLE).digest
    assert any("parameters and buffers" in line and "(3 tensors)" in line for line in first.digest_covers)
    assert any(line.startswith("source text of ") for line in first.digest_covers)
    assert any(line.startswith("not covered: installed packages, files") for line in first.digest_covers)


def test_a_digest_does_not_change_as_a_model_runs():
    class Counting(Scaled):
        def forward(self, x):
            self.scale += 0.5
            return super().forward(x)

    model = as_model(Counting(), sample=SAMPLE)
    before = model.digest
    model.predict(SAMPLE)
    assert model.digest == before == as_model(Counting(), sample=SAMPLE).digest


TEACHER = """import torch
torch.manual_seed({seed})
net = torch.nn.Linear(3, 2)
def helper(x):
    return x * {scale}
def teacher(x):
    return net(helper(x)){comment}
"""
LOAD = """import json, numpy as np
from softlabels import models
model = models.load("python:tw:teacher", sample=np.ones((2, 3), np.float32))
print(json.dumps([model.digest, model.digest_covers]))
"""


def test_the_digest_of_a_function_covers_its_module_and_the_weights_it_uses(tmp_path):
    def load(**changes):
        (tmp_path / "tw.py").write_text(TEACHER.format(**({"seed": 0, "scale": 1, "comment": ""} | changes)))
        return json.loads(run("-c", LOAD, cwd=tmp_path))

    digest, covers = load()
    assert load()[0] == digest
    others = [load(seed=1)[0], load(scale=2)[0], load(comment="  # changed")[0]]
    assert len({digest, *others}) == 4
    assert "source text of module tw" in covers
    assert "parameters and buffers of tw.net (2 tensors)" in covers


def test_lazy_layers_get_a_digest_after_the_first_batch():
    torch.manual_seed(0)
    model = as_model(torch.nn.LazyLinear(2), sample=SAMPLE)
    assert len(model.digest) == 64


def test_weights_that_are_not_there_are_a_typed_error():
    with pytest.raises(InvalidArgument, match="the values cannot be read"):
        as_model(torch.nn.Linear(3, 2, device="meta"), sample=SAMPLE)


MODULE = """import torch
class Net(torch.nn.Module):
    def forward(self, x):
        return x.float().flatten(1)[:, :4]
class Needs(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
class Fails(torch.nn.Module):
    def __init__(self):
        raise FileNotFoundError("no weights here")
class Student(torch.nn.Module):
    def __init__(self, input_shape, heads, width=5):
        super().__init__()
        self.layer = torch.nn.Linear(input_shape[0], heads["logits"].classes)
    def forward(self, x):
        return self.layer(x)
def factory():
    return Net()
def factory_with_default(pretrained=True):
    return Net()
def of_classes(classes):
    return torch.nn.LazyLinear(classes)
function = lambda x: x.float().flatten(1)[:, :3]
number = 3
net = torch.nn.Linear(3, 2)
class space:
    inner = function
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import torch\nraise RuntimeError('half written')\n")
    (tmp_path / "unparsable.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_models", None)


@pytest.mark.parametrize(
    ("name", "classes"),
    [("Net", 4), ("function", 3), ("factory", 4), ("factory_with_default", 4), ("net", 2), ("space.inner", 3)],
)
def test_code_is_named_on_the_command_line(user_module, name, classes):
    model = models.load(f"python:my_models:{name}", sample=np.ones((2, 3 if name == "net" else 6), np.float32))
    assert model.heads["logits"].classes == classes


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("python:my_models:nothing", "cannot be imported, got AttributeError.*'nothing'"),
        ("python:nowhere:x", "got ModuleNotFoundError: No module named 'nowhere'; expected"),
        ("python:my_models", "the name inside the module is missing; expected python:MODULE:NAME"),
        ("python:my_models:number", "cannot be called on a batch, got int"),
        ("python:./my_models.py:net", "not a module name.*python:my_models:net"),
        ("python:my_models.py:net", "not a module name, got 'my_models.py'; expected python:MODULE:NAME"),
        ("python:broken:net", r"RuntimeError: half written \(broken.py:2: raise RuntimeError"),
        ("python:unparsable:f", "cannot be imported, got SyntaxError"),
        ("python:my_models:Needs", "needs arguments, got size; expected no arguments"),
        ("python:my_models:Fails", r"cannot be constructed, got FileNotFoundError: no weights here \(my_models.py:10"),
    ],
)
def test_slips_in_a_python_specification_are_typed_errors(user_module, spec, message):
    with pytest.raises(InvalidArgument, match=message):
        models.load(spec, sample=SAMPLE)


def test_a_student_is_built_from_code_of_the_user(user_module):
    heads = {"logits": OutputHead(classes=6)}
    first, again, other = (
        models.build("python:my_models:Student", input_shape=(3,), heads=heads, seed=seed) for seed in (0, 0, 1)
    )
    assert first.predict(SAMPLE)["logits"].shape == (4, 6)
    assert first.digest == again.digest != other.digest
    copied = models.build("python:my_models:net", input_shape=(3,), heads={"logits": OutputHead(classes=2)})
    assert copied.module is not sys.modules["my_models"].net
    for spec, message in (
        ("python:my_models:function", "needs arguments, got x"),
        ("python:my_models:number", "expected a torch.nn.Module"),
        ("python:my_models:space", "cannot be trained, got space"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            models.build(spec, input_shape=(3,), heads=heads)


@pytest.mark.parametrize("value", [3, None, Scaled])
def test_other_things_are_not_models(value):
    with pytest.raises(InvalidArgument, match="model: unsupported type"):
        as_model(value, sample=SAMPLE)
