from functools import cache

import pytest
import torch

from sqllm.errors import UsageError
from sqllm.model.prompt import AUDIO, QUESTIONS, REFERENCE
from sqllm.model.scoring import LEAVES, AnswerTree, encode, moments, soft_target
from sqllm.model.store import create

LISTENERS = ("", "A strict listener.\n")


@pytest.fixture(scope="module")
def models(config):
    torch.manual_seed(1)
    return {name: create(config(language_model=name)).eval() for name in ("smollm2", "llama3")}


def features(model, batch=2, seed=0):
    return torch.randn(batch, 1, 8, model.encoder.width, generator=torch.Generator().manual_seed(seed))


def brute_force(model, prefix, words):
    """[B, 41] P(d) * P(.|d) * P(k|d.), each from a plain causal pass over the words as the tokenizer writes them."""

    @cache
    def following(text):
        ids = torch.tensor(encode(model.tokenizer, words + text))
        x = torch.cat([prefix, model.language.embed(ids).expand(len(prefix), -1, -1)], dim=1)
        return model.language.base(inputs_embeds=x).logits[:, -1].log_softmax(-1)

    def token(text):
        return model.tokenizer.convert_tokens_to_ids(text)

    first, out = following(""), []
    for leaf in map(str, LEAVES):
        d, _, k = leaf
        point, second = following(d)[:, token(".")], following(f"{d}.")[:, token(k)]
        out.append(first[:, token(d)] + point + second)
    return torch.stack(out, dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["smollm2", "llama3"])
@pytest.mark.parametrize("listeners", [1, 2])
def test_one_pass_gives_what_separate_passes_give(models, name, attention, listeners):
    model = models[name]
    model.language.base.set_attn_implementation(attention)
    audio, asked = features(model), LISTENERS[-listeners:]
    scores = model.score(audio, listeners=asked)
    assert scores.shape == (2, listeners, 5, 41)
    prefix = model.embed(model.prompt.rating(), audio)
    expected = [
        [brute_force(model, prefix, listener + question) for question in QUESTIONS.values()] for listener in asked
    ]
    expected = torch.stack([torch.stack(e, dim=1) for e in expected], dim=1)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.5 and (expected[0] - expected[1]).abs().max() > 0.01  # a tree without a trunk would pass


@torch.no_grad()
def test_a_reference_is_heard(models):
    model = models["smollm2"]
    audio, reference = features(model), features(model, seed=1)
    prefix = model.embed(model.prompt.rating(reference=True), audio, reference)
    expected = brute_force(model, prefix, "mos: ")
    torch.testing.assert_close(model.score(audio, reference)[:, 0, 0], expected, atol=1e-4, rtol=0)
    assert (model.score(audio, audio)[:, 0, 0] - expected).abs().max() > 0.01


@torch.no_grad()
def test_a_score_depends_neither_on_batch_mates_nor_on_other_listeners(models):
    model, audio = models["llama3"], features(models["llama3"], 3)
    together = model.score(audio, listeners=LISTENERS)
    torch.testing.assert_close(
        model.score(audio[1:2], listeners=LISTENERS[1:])[0, 0], together[1, 1], atol=1e-4, rtol=0
    )


@torch.no_grad()
def test_mass_says_how_sure_the_model_is_of_giving_a_number(models):
    log = models["smollm2"].score(features(models["smollm2"]))
    mean, std, mass = moments(log)
    assert ((mass > 0) & (mass < 1)).all() and ((mean > 1) & (mean < 5)).all() and (std < 2).all()


@pytest.mark.parametrize("name", ["smollm2", "llama3"])
def test_tokens_are_those_of_the_text(tokenizers, name):
    tokenizer = tokenizers[name]
    questions = list(QUESTIONS.values())
    tree = AnswerTree.build(tokenizer, questions, LISTENERS)
    for i, listener in enumerate(LISTENERS):
        for j, question in enumerate(questions):
            for d in range(5):
                path = tree.tokens_T[tree.visible_TT[tree.point_rows_LQ5[i, j, d]]].tolist()
                assert path == encode(tokenizer, f"{listener}{question}{d + 1}.")
    assert len(tree.rows) == 2 * 5 * 11


def test_a_tokenizer_that_joins_digits_to_spaces_is_refused(tokenizers):
    with pytest.raises(UsageError, match="single tokens"):
        AnswerTree.build(tokenizers["gpt2"], list(QUESTIONS.values()))


@pytest.mark.parametrize("name", ["smollm2", "llama3"])
def test_prompt_puts_the_audio_before_the_question(models, name):
    prompt, decode = models[name].prompt, models[name].tokenizer.decode
    before, audio, between, reference, after = prompt.rating(reference=True)
    assert (audio, reference) == (AUDIO, REFERENCE)
    assert "You judge" in decode(before) and "reference" in decode(between) and "Rate it." in decode(after)
    assert prompt.rating() == [before, audio, after]


def test_moments_of_a_known_distribution():
    p = torch.full((1, 1, 1, 41), 1e-12)
    p[..., LEAVES.index(2.0)], p[..., LEAVES.index(4.0)] = 0.1, 0.3
    mean, std, mass = moments(p.log())
    assert mean.item() == pytest.approx(3.5, abs=1e-4)
    assert std.item() == pytest.approx(0.75**0.5, abs=1e-4)
    assert mass.item() == pytest.approx(0.4, abs=1e-4)


def test_soft_targets_keep_their_mean():
    mean, std = torch.meshgrid(torch.linspace(1.1, 4.9, 39), torch.linspace(0.0, 1.2, 13), indexing="ij")
    target = soft_target(mean, std)
    torch.testing.assert_close(target.sum(-1), torch.ones_like(mean))
    assert (target >= 0).all()
    torch.testing.assert_close((target * torch.tensor(LEAVES)).sum(-1), mean, atol=0.02, rtol=0)


def test_soft_targets_keep_their_spread_away_from_the_ends():
    target = soft_target(torch.tensor([3.0, 2.5]), torch.tensor([0.3, 0.5]))
    torch.testing.assert_close(moments(target.log())[1], torch.tensor([0.3, 0.5]), atol=0.02, rtol=0)
    ends = soft_target(torch.tensor([1.0, 5.0]), torch.tensor([0.5, 0.5]))
    assert ends[0].argmax() == 0 and ends[1].argmax() == 40 and ends.isfinite().all()


def test_a_mask_is_made_once_and_training_gets_its_own(models):
    tree = models["smollm2"].tree(("",))
    with torch.inference_mode():
        first, _ = tree.mask(7, torch.float32, "cpu")
        assert tree.mask(7, torch.float32, "cpu")[0] is first
    learning, _ = tree.mask(7, torch.float32, "cpu")
    assert torch.equal(first, learning) and not learning.is_inference()
