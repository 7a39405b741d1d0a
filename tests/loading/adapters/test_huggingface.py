"""Real trainers of other libraries train from labels, resume exactly, and refuse what does not fit."""

import inspect
import json
import runpy
import warnings

import numpy as np
import pytest
import torch

import softlabels as sl
from softlabels.errors import InvalidArgument, LabelsMisaligned, TemperatureNotStored
from softlabels.labels import Head
from softlabels.loading import Ensemble, Loader
from softlabels.loading.adapters.huggingface import TokenCollator, TokenLoss, trainer_arguments
from softlabels.loading.adapters.torch_datasets import LabelDataset
from softlabels.sources import TokenSource
from tests.loading.stores import write_store
from tests.warm import start_ranks

pytestmark = pytest.mark.filterwarnings("ignore::Warning")  # those of other libraries are theirs


def example(root, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return runpy.run_path(str(root / "docs" / "examples" / name))


@pytest.fixture(scope="module")
def trainer(root):
    return example(root, "huggingface_trainer.py")


@pytest.fixture(scope="module")
def uninterrupted(trainer, tmp_path_factory):
    """A Trainer that took ten steps, checkpoints at 5 and 10."""
    out = tmp_path_factory.mktemp("whole")
    return out, trainer["train"](out, steps=10)


def weights(finished):
    return torch.cat([parameter.detach().flatten() for parameter in finished.model.parameters()])


def test_a_trainer_learns_from_token_labels(uninterrupted):
    losses = [entry["loss"] for entry in uninterrupted[1].state.log_history if "loss" in entry]
    assert len(losses) == 10
    assert sum(losses[-3:]) < sum(losses[:3])


def test_a_trainer_that_resumes_ends_with_the_same_weights(trainer, uninterrupted, tmp_path):
    """Five steps with the schedule of ten, then another process's Trainer goes on from the checkpoint."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 5

    build = trainer["train"].__globals__
    plain = build["Trainer"]
    build["Trainer"] = lambda *a, **k: plain(*a, callbacks=[Stop()], **k)
    try:
        stopped = trainer["train"](tmp_path, steps=10)
    finally:
        build["Trainer"] = plain
    assert stopped.state.global_step == 5
    resumed = trainer["train"](tmp_path, steps=10, resume=True)
    assert resumed.state.global_step == 10
    assert torch.equal(weights(resumed), weights(uninterrupted[1]))
    assert not torch.equal(weights(stopped), weights(resumed))


def test_accumulated_gradients_and_workers_are_one_large_batch(trainer, tmp_path):
    """Tokens count alike however sequences of unlike lengths fall into batches."""
    small = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "dataloader_num_workers": 1,
             "dataloader_multiprocessing_context": "forkserver"}  # fmt: skip
    one = trainer["train"](tmp_path / "one", steps=3, optim="sgd", max_grad_norm=0)
    two = trainer["train"](tmp_path / "two", steps=3, optim="sgd", max_grad_norm=0, **small)
    torch.testing.assert_close(weights(two), weights(one), atol=1e-5, rtol=1e-4)


def metrics_of(prediction):
    """Return the share of tokens that are the most likely ones, and the number of tokens, as a user would."""
    guessed, following = prediction.predictions[:, :-1].argmax(axis=-1), prediction.label_ids[:, 1:]
    counted = following != -100
    return {"accuracy": float((guessed == following)[counted].mean()), "tokens": int(counted.sum())}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_trainer_computes_metrics_from_the_tokens(uninterrupted, trainer, tmp_path, workers):
    """Batches of unlike lengths, the last one smaller, also where worker processes collate."""
    _, finished = uninterrupted
    options = {"dataloader_num_workers": workers, "dataloader_multiprocessing_context": "forkserver"} if workers else {}
    trained = trainer["train"](tmp_path, steps=1, per_device_eval_batch_size=24, **options)
    trained.model.load_state_dict(finished.model.state_dict())
    trained.compute_metrics = metrics_of
    metrics = trained.evaluate(trained.train_dataset)
    tokens = trainer["texts"](64)
    right = []
    with torch.no_grad():
        for text in tokens:
            logits = finished.model.eval()(torch.tensor([text])).logits[0, :-1]
            right += (logits.argmax(dim=-1) == torch.tensor(text[1:])).tolist()
    assert metrics["eval_tokens"] == len(right)
    assert metrics["eval_accuracy"] == pytest.approx(np.mean(right))
    predicted = trained.predict(trained.train_dataset)
    assert predicted.label_ids.shape == (64, max(map(len, tokens)))
    assert predicted.metrics["test_accuracy"] == metrics["eval_accuracy"]


DRIVER = """
import json, pathlib, runpy, sys
import torch
out = pathlib.Path(sys.argv[2])
trainer = runpy.run_path(sys.argv[1])["train"](
    out, steps=2, optim="sgd", max_grad_norm=0, per_device_train_batch_size=4
)
if trainer.args.process_index == 0:
    weights = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
    torch.save(weights, out / "weights.pt")
trainer.compute_metrics = metrics_of
metrics = trainer.evaluate(trainer.train_dataset)  # all ranks take part
if trainer.args.process_index == 0:
    (out / "metrics.json").write_text(json.dumps(metrics))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_two_processes_with_half_the_batch_each_train_the_same_student(trainer, root, tmp_path):
    """Real ranks, as torchrun starts them: a sum that did not count tokens over both would be off."""
    (tmp_path / "driver.py").write_text(f"{inspect.getsource(metrics_of)}\n{DRIVER}")
    arguments = tmp_path / "driver.py", root / "docs" / "examples" / "huggingface_trainer.py", tmp_path / "two"
    ranks = start_ranks(2, *arguments)
    ended = [rank.communicate(timeout=200) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], ended
    one = trainer["train"](tmp_path / "one", steps=2, optim="sgd", max_grad_norm=0)
    expected = torch.load(tmp_path / "two" / "weights.pt", weights_only=True)
    torch.testing.assert_close(expected, weights(one), atol=1e-6, rtol=1e-5)
    one.compute_metrics = metrics_of
    trained, gathered = one.evaluate(one.train_dataset), json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert gathered["eval_tokens"] == trained["eval_tokens"]
    assert gathered["eval_accuracy"] == pytest.approx(trained["eval_accuracy"])


def test_a_trainer_evaluates_with_the_same_loss(uninterrupted):
    _, finished = uninterrupted
    dataset = finished.train_dataset
    value = finished.evaluate(dataset)["eval_loss"]
    assert np.isfinite(value)
    assert value > 0


def token_store(folder, lengths, *, classes=11, encoding="topk:4:f16", short=1, **head):
    rng = np.random.default_rng(0)
    tokens = TokenSource([rng.integers(0, classes, n) for n in lengths])
    logits = [rng.normal(0, 2, (n - short, classes)).astype(np.float32) for n in lengths]
    kind = Head(encoding=encoding, classes=classes, kind="tokens", shape=(None,), temperatures=(1.0, 2.0), **head)
    return write_store(folder, logits, head=kind, keys=tokens.keys(), fingerprint=tokens.fingerprint), tokens, logits


@pytest.mark.parametrize("short", [0, 1])
@pytest.mark.parametrize("encoding", ["dense:f32", "topk:11:f16"])
def test_the_loss_is_that_of_the_sequences_one_by_one(tmp_path, encoding, short):
    """Position i predicts token i + 1; padding counts for nothing; also where teachers kept the last position."""
    lengths = [5, 2, 9]
    store, tokens, logits = token_store(tmp_path / "s", lengths, encoding=encoding, short=short)
    inputs = TokenCollator()(LabelDataset(store, inputs=tokens, check="all").__getitems__([2, 0, 1]))
    assert inputs["attention_mask"].sum(dim=1).tolist() == [9, 5, 2]
    torch.manual_seed(0)
    student = torch.randn(3, 9, 11, requires_grad=True)
    total = 0.0
    for index, row in enumerate([2, 0, 1]):
        ids = torch.as_tensor(tokens.inputs(np.array([row])).values)
        for i in range(lengths[row] - 1):
            p = torch.as_tensor(logits[row][i]).double().div(2).softmax(0)
            log_q = student[index, i].double().div(2).log_softmax(0)
            kl = 4 * (p * (p.log() - log_q)).sum()
            total += 0.7 * kl - 0.3 * student[index, i].double().log_softmax(0)[ids[i + 1]]
    loss = TokenLoss(temperature=2.0, alpha=0.7)
    expected = float(total / 13)
    assert float(loss({"logits": student}, inputs["labels"])) == pytest.approx(expected, rel=2e-3)
    assert float(loss({"logits": student}, inputs["labels"], 26)) == pytest.approx(expected / 2, rel=2e-3)
    assert int(inputs["labels"][..., 1:].ne(-100).sum()) == 13, "what the Trainer counts"
    assert type(inputs["labels"].detach()) is torch.Tensor, "what a Trainer gathers"
    assert inputs["labels"].tolist() == inputs["labels"].hard.tolist()
    moved = inputs["labels"].to("cpu", non_blocking=True)
    assert float(loss({"logits": student}, moved)) == float(loss({"logits": student}, inputs["labels"]))


def test_labels_of_other_lengths_than_the_text_are_refused(tmp_path):
    store, tokens, _ = token_store(tmp_path / "s", [5, 6], short=2)
    with pytest.raises(LabelsMisaligned, match="row 1 has 6 tokens, but labels of 4 positions"):
        TokenCollator()([LabelDataset(store, inputs=tokens)[1]])


def test_labels_that_do_not_fit_a_student_are_refused_before_the_first_step(trainer, tmp_path, sealed, digits):
    store, tokens, _ = token_store(tmp_path / "s", [5, 6])
    dataset = LabelDataset(store, inputs=tokens)
    student = trainer["gpt2"](width=16, seed=0)
    with pytest.raises(
        InvalidArgument, match=r"student: the vocabulary differs from the labels., got 101 tokens and 11 classes"
    ):
        trainer_arguments(dataset, student)
    student.resize_token_embeddings(11)
    with pytest.raises(TemperatureNotStored, match="no tail mass at temperature 3; they hold 1, 2"):
        trainer_arguments(dataset, student, temperature=3.0)
    with pytest.raises(InvalidArgument, match="has no head 'other'; it has logits"):
        trainer_arguments(dataset, student, head="other")
    ensemble = LabelDataset(Ensemble([store], temperature=2.0), inputs=tokens)
    assert set(trainer_arguments(ensemble, student, temperature=2.0)) == {"data_collator", "compute_loss_func"}
    with pytest.raises(TemperatureNotStored, match="averaged at one temperature, got 1; expected 2"):
        trainer_arguments(ensemble, student, temperature=1.0)
    with pytest.raises(InvalidArgument, match="expected token ids"):
        TokenCollator()([LabelDataset(sl.open(sealed), inputs=digits)[0]])


def test_lightning_goes_on_in_mid_epoch_with_exactly_the_remaining_rows(root, sealed, tmp_path):
    lightning = example(root, "lightning_resume.py")
    from pytorch_lightning.callbacks import ModelCheckpoint

    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    uninterrupted = lightning["train"](sealed, tmp_path, callbacks=[keep])
    assert len(uninterrupted.rows) == 2 * 1797
    for step in (4, 12):
        resumed = lightning["train"](
            sealed, tmp_path, checkpoint=tmp_path / f"step={step}.ckpt", enable_checkpointing=False
        )
        done = sum(len(batch.rows) for batch in list(Loader(sl.open(sealed), batch_size=200))[: step % 9])
        assert resumed.rows == uninterrupted.rows[step // 9 * 1797 + done :]
        for trained, expected in zip(resumed.parameters(), uninterrupted.parameters(), strict=True):
            assert torch.equal(trained, expected)


def test_accelerate_goes_on_behind_its_checkpoint(root, sealed, tmp_path):
    accelerate = example(root, "accelerate_resume.py")
    seen = [accelerate["train"](sealed, tmp_path / "state", steps=steps) for steps in (4, 3, 7)]
    loader = Loader(sl.open(sealed), batch_size=200)
    expected = [row for epoch in (0, 1) for batch in loader.epoch(epoch) for row in batch.rows.tolist()]
    assert [row for rows in seen for row in rows] == expected[: 1797 + 5 * 200]
