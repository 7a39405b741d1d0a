"""Small ONNX files, made without an exporter."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DTYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32}


def weights(name, *shape, seed=0):
    return numpy_helper.from_array(np.random.default_rng(seed).normal(size=shape).astype(np.float32), name)


def save(path, nodes, outputs, *, initializers=(), inputs=None, opset=17, external=None, metadata=None):
    """Write a model; ``outputs`` maps names to shapes, ``inputs`` names to (dtype, shape)."""
    inputs = inputs or {"image": ("float32", ["n", 3, 8, 8])}
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, DTYPES[dtype], shape) for name, (dtype, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    if metadata:
        helper.set_model_props(model, metadata)
    if external is not None:
        onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=0)
    else:
        onnx.save(model, path)
    return f"onnx:{path}"


def segmenter(path, batch="n", **options):
    """A 1x1 convolution with a softmax over 5 classes, and the mean of its logits as an angle."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["scores"], kernel_shape=[1, 1]),
        helper.make_node("Softmax", ["scores"], ["road"], axis=1),
        helper.make_node("ReduceMean", ["scores"], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["pooled", "v"], ["angle"]),
    ]
    return save(
        path,
        nodes,
        {"road": [batch, 5, 8, 8], "angle": [batch, 1]},
        initializers=[weights("w", 5, 3, 1, 1), weights("v", 5, 1, seed=1)],
        inputs={"image": ("float32", [batch, 3, 8, 8])},
        **options,
    )
