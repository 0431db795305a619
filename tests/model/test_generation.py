"""Generation with shared prefixes gives the tokens of one-at-a-time `generate`, whatever goes together."""

import random

import pytest

from text2sql.errors import UserError
from text2sql.model import generation
from text2sql.model.generation import Decoder, Generation, GenerationOptions, generate, plain
from text2sql.model.sampling import UNLIKELY, Choice
from text2sql.model.shared_prefix import KeptPrefixes, group_by_prefix

VOCABULARY, END = 97, 2


class Tokenizer:
    """Ids as text: what generation needs of a tokenizer."""

    eos_token_id, pad_token_id = END, 0

    def decode(self, ids, **_):
        return " ".join(map(str, ids))


SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip


def tiny(kind, **changes):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SHAPE, "head_dim": 8, **changes})
    config.initializer_range = 0.3  # sharp logits: random models of the usual range are all near-ties
    return AutoModelForCausalLM.from_config(config).eval()


MODELS = {
    "llama": lambda: tiny("llama"),
    "llama, tied": lambda: tiny("llama", tie_word_embeddings=True, num_key_value_heads=6),
    "mistral": lambda: tiny("mistral", sliding_window=None),
    "mistral, window 8": lambda: tiny("mistral", sliding_window=8),
    "mistral, window 40": lambda: tiny("mistral", sliding_window=40),
    "qwen2": lambda: tiny("qwen2"),
}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request):
    return MODELS[request.param]()


def prompts_of(schemas, questions, seed=0):
    """`schemas` lengths of prefixes, `questions` prompts on each, with 1 to 9 tokens of their own, shuffled."""
    draw = random.Random(seed)
    made = []
    for length in schemas:
        schema = [draw.randrange(3, VOCABULARY) for _ in range(length)]
        made += [schema + [draw.randrange(3, VOCABULARY) for _ in range(draw.randint(1, 9))] for _ in range(questions)]
    draw.shuffle(made)
    return made


@pytest.mark.parametrize(
    ("schemas", "questions", "batch"),
    [
        ((30,), 9, 4),  # one database
        ((5, 60, 17), 5, 4),  # a mixture of schema lengths
        ((0, 40, 1, 3), 3, 7),  # nothing shared, and next to nothing
        ((20, 25, 30, 35, 40), 1, 3),  # a question each: no sharing at all
        ((33,), 2, 1),  # one at a time
    ],
)
def test_tokens_are_those_of_one_at_a_time(model, schemas, questions, batch):
    prompts = prompts_of(schemas, questions)
    alone = plain(model, Tokenizer(), prompts, GenerationOptions(batch_size=1, max_new_tokens=12))
    together = generate(model, Tokenizer(), prompts, GenerationOptions(batch_size=batch, max_new_tokens=12))
    assert [g.token_ids for g in together] == [g.token_ids for g in alone]
    assert [(g.text, g.finished) for g in together] == [(g.text, g.finished) for g in alone]


def test_some_rows_end_and_some_are_cut():
    """The cases above would prove little if every row ran to the limit."""
    made = generate(tiny("llama"), Tokenizer(), prompts_of((30, 9), 40), GenerationOptions(max_new_tokens=24))
    assert {g.finished for g in made} == {True, False}
    assert all(END not in g.token_ids for g in made)
    assert all(len(g.token_ids) == 24 for g in made if not g.finished)


def test_a_small_cache_changes_the_time_only():
    model, prompts = tiny("mistral", sliding_window=16), prompts_of((30, 9, 50), 6)
    wide = generate(model, Tokenizer(), prompts, GenerationOptions(batch_size=8, max_new_tokens=12))
    narrow = GenerationOptions(batch_size=8, max_new_tokens=12, cache_tokens=100)
    assert generate(model, Tokenizer(), prompts, narrow) == [
        Generation(g.token_ids, g.text, g.finished, pytest.approx(g.score, abs=1e-3)) for g in wide
    ]


def test_sampling_depends_on_the_seed_alone():
    model, prompts = tiny("llama"), prompts_of((20,), 6)
    options = GenerationOptions(batch_size=6, max_new_tokens=12)
    seeds = [f"seed-{i}" for i in range(6)]
    drawn = generate(model, Tokenizer(), prompts, options, seeds)
    assert drawn == generate(model, Tokenizer(), prompts, options, seeds)
    one = generate(model, Tokenizer(), prompts[3:4], options, seeds[3:4])
    assert one[0].token_ids == drawn[3].token_ids
    assert [g.token_ids for g in drawn] != [g.token_ids for g in generate(model, Tokenizer(), prompts, options)]


def test_rows_come_as_they_end():
    options = GenerationOptions(batch_size=4, max_new_tokens=24)
    order = [i for i, _ in Decoder(tiny("llama"), Tokenizer(), prompts_of((30, 9), 20), options)]
    assert sorted(order) == list(range(40))
    assert order != sorted(order)


@pytest.mark.parametrize(
    ("prompts", "groups"),
    [
        ([], []),
        ([[1]], [(0, [0])]),
        ([[1, 2], [3, 4]], [(0, [0]), (0, [1])]),
        ([[1, 2], [1, 2]], [(1, [0, 1])]),  # the last token is a row's own, also where prompts are equal
        ([[1, 2, 3, 4], [7, 8], [1, 2, 3, 5]], [(3, [0, 2]), (0, [1])]),
        # A word shared by two questions does not part them from their database ...
        ([[1, 2, 3, 4, 5, 6, 9], [1, 2, 3, 4, 5, 6, 8], [1, 2, 3, 4, 7, 7], [1, 2, 3, 4, 8, 8]], [(4, [0, 1, 2, 3])]),
        # ... nor does a system prompt join two databases.
        ([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 7, 8, 9, 5], [1, 7, 8, 9, 6]], [(4, [0, 1]), (4, [2, 3])]),
    ],
)
def test_prompts_are_grouped_by_what_they_share(prompts, groups):
    assert group_by_prefix(prompts) == groups


def test_a_thousand_prompts_are_grouped_at_once():
    groups = group_by_prefix([[i, i + 1, 5] for i in range(3000)] + [[0] * n + [1, 2] for n in range(300)])
    assert sorted(i for _, members in groups for i in members) == list(range(3300))


@pytest.mark.parametrize(
    ("prompts", "said"),
    [([[]], "prompt 0 is empty"), ([[5], [5] * 250], "prompt 1 has 250 tokens; with 24 of answer")],
)
def test_impossible_prompts_are_refused(prompts, said):
    with pytest.raises(UserError, match=said):
        generate(tiny("llama"), Tokenizer(), prompts, GenerationOptions(max_new_tokens=24))


@pytest.fixture
def computed(monkeypatch):
    """The tokens that were computed, a list for each forward pass."""
    from text2sql.model import generation

    passes, forward = [], generation.Decoder._forward

    def counted(self, step):
        passes.append(list(step.tokens))
        return forward(self, step)

    monkeypatch.setattr(generation.Decoder, "_forward", counted)
    return passes


@pytest.mark.parametrize("room", [4096, 100, 1])
def test_what_earlier_prompts_had_in_common_is_kept(model, computed, monkeypatch, room):
    """One prompt after another, of three schemas in turn, alone and several times: the same tokens."""
    monkeypatch.setattr(KeptPrefixes, "TOKENS", room)
    kept, options = KeptPrefixes(), GenerationOptions(max_new_tokens=5)
    asked = [[prompt] * copies for prompt in prompts_of((40, 30, 25), 4) for copies in (1, 3)]
    for prompts in asked:
        apart = generate(model, Tokenizer(), prompts, options)
        computed.clear()
        again = generate(model, Tokenizer(), prompts, options, None, None, kept)
        assert [g.token_ids for g in again] == [g.token_ids for g in apart]
        assert [g.score for g in again] == pytest.approx([g.score for g in apart], abs=1e-4)
        held = [len(segment.tokens) for segment in kept.segments]
        assert sum(held) <= room or len(held) == 1
    assert room < 100 or len(computed[0]) < 12


def test_a_schema_is_read_once(computed):
    schema, kept, options = prompts_of((60,), 1)[0], KeptPrefixes(), GenerationOptions(max_new_tokens=1)
    for question in ([5, 6, 7], [5, 8], [9, 9, 9, 9]):
        computed.clear()
        generate(tiny("qwen2"), Tokenizer(), [schema + question], options, None, None, kept)
        read = sum(map(len, computed))
        assert read == (len(schema) + 3 if question[1] == 6 else len(question) - (question[0] == 5))
        assert len(kept.segments) == 1
    assert kept.segments[0].tokens == tuple(schema)


@pytest.mark.parametrize("batch", [3, 16])
def test_candidates_read_their_question_once(computed, batch):
    model, questions = tiny("llama"), prompts_of((20, 9), 2)
    prompts = [prompt for prompt in questions for _ in range(4)]
    seeds = [f"{i}" if i % 4 else None for i in range(len(prompts))]
    options = GenerationOptions(batch_size=batch, max_new_tokens=6)
    alone = [generate(model, Tokenizer(), [p], options, [s])[0] for p, s in zip(prompts, seeds, strict=True)]
    computed.clear()
    together = generate(model, Tokenizer(), prompts, options, seeds)
    assert [g.token_ids for g in together] == [g.token_ids for g in alone]
    decoded = sum(len(g.token_ids) + g.finished - 1 for g in together)
    groups = group_by_prefix(prompts)
    once = sum(length + sum(len(prompts[i]) - length for i in members[::4]) for length, members in groups)
    assert sum(map(len, computed)) == once + decoded


class Tree:
    """A constraint that knows which tokens may follow which: {beginning: {token: log probability}}."""

    def __init__(self, tree):
        self.tree, self.tokens, self.released = tree, [], False

    def accept(self, token):
        if not self.released and token not in self.tree.get(tuple(self.tokens), {}):
            raise ValueError(f"token {token} was not allowed")
        self.tokens.append(token)

    def back_to(self, count):
        self.tokens, self.released = self.tokens[:count], False

    def again(self):
        return Tree(self.tree)

    def choice(self):
        tokens = self.tree.get(tuple(self.tokens), {})
        if not tokens:
            self.released = True
            return Choice(END, -1.0, 1.0, ((D, -1.2),), dead_end=True)
        (token, score), *others = sorted(tokens.items(), key=lambda item: -item[1])
        return Choice(token, score, 1.0, tuple(other for other in others if other[1] >= UNLIKELY))


A, B, C, D = 11, 12, 13, 14


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("tree", "tokens", "score", "checked"),
    [
        # The likeliest token at each step, as long as none is unlikely: whatever another beginning would have come to.
        ({(): {A: -0.5, B: -1.0}, (A,): {C: -2.9}, (A, C): {END: 0.0}, (B,): {END: 0.0}}, [A, C], -3.4, True),
        # An unlikely one: back to the beginning that is likelier than this one ...
        ({(): {A: -0.5, B: -1.0}, (A,): {C: -3.1}, (A, C): {END: 0.0}, (B,): {END: 0.0}}, [B], -1.0, True),
        ({(): {A: -0.5, B: -1.0}, (A,): {END: -3.1}, (B,): {C: -0.1}, (B, C): {END: 0.0}}, [B, C], -1.1, True),
        # ... if there is one; an unlikely token itself is none.
        ({(): {A: 0.0}, (A,): {C: -3.1, B: -3.2}, (A, C): {END: 0.0}}, [A, C], -3.1, True),
        # Further back, and there and back again, where that one comes to something still less likely.
        ({(): {A: -0.5, B: -1.0}, (A,): {C: -0.1}, (A, C): {A: -9.0}, (B,): {END: 0.0}}, [B], -1.0, True),
        (
            {(): {A: -0.5, B: -1.0}, (A,): {C: -0.1}, (A, C): {A: -4.0}, (A, C, A): {END: 0.0}, (B,): {C: -9.0}},
            [A, C, A], -4.6, True,
        ),
        # From a dead end to any beginning; where there is none, names are not checked any more.
        ({(): {A: 0.0, B: -2.9}, (A,): {C: 0.0}, (A, C): {}, (B,): {END: 0.0}}, [B], -2.9, True),
        ({(): {A: 0.0}, (A,): {}}, [A], -1.0, False),
        ({(): {A: 0.0}, (A,): {B: 0.0}, (A, B): {}}, [A, B], -1.0, False),
    ],
)  # fmt: skip
def test_where_only_unlikely_tokens_are_left_the_row_goes_back(monkeypatch, dtype, tree, tokens, score, checked):
    import torch

    choose = lambda logits, constraints, *_: [constraint.choice() for constraint in constraints]  # noqa: E731
    monkeypatch.setattr(generation, "choose_tokens", choose)
    model, prompts = tiny("llama").to(getattr(torch, dtype)), prompts_of((20,), 3)
    made = generate(
        model, Tokenizer(), prompts, GenerationOptions(max_new_tokens=24), None, [Tree(tree) for _ in prompts]
    )
    assert {g.token_ids for g in made} == {tuple(tokens)}
    assert [g.score for g in made] == pytest.approx([score] * 3)
    assert {(g.checked, g.finished) for g in made} == {(checked, True)}


def test_a_row_goes_back_a_few_times_only(monkeypatch):
    """Each beginning comes to something unlikely: after the last return the row goes on where it is."""
    tree = {(): {t: -0.1 * t for t in range(3, 23)}} | {(t,): {C: -9.0} for t in range(3, 23)}
    tree |= {(t, C): {END: 0.0} for t in range(3, 23)}
    choose = lambda logits, constraints, *_: [constraint.choice() for constraint in constraints]  # noqa: E731
    monkeypatch.setattr(generation, "choose_tokens", choose)
    (made,) = generate(
        tiny("llama"), Tokenizer(), prompts_of((20,), 1), GenerationOptions(max_new_tokens=24), None, [Tree(tree)]
    )
    assert made.token_ids == (3 + generation.RETURNS, C)
