"""Does with the CLIP of Inject S* what other packs do, and prints relative errors and flags as JSON.

The words are those of "a man" in that CLIP, position included: S* must give the conditioning of "a man".
"""

import copy
import functools
import json
import pickle
import sys
import types

import boot
import comfy.hooks
import comfy.sd
import torch
from comfy.sd1_clip import SD1Tokenizer, SDTokenizer
from comfy_execution.utils import CurrentNodeContext
from comfy_extras.nodes_hooks import SetClipHooks

CHECKPOINT = boot.ARGUMENT
PREFIX = "clip_l.transformer.text_model.embeddings"
PROMPT, PLAIN = "A photo of S* as a chef", "A photo of a man as a chef"
FOUND = {}

boot.load_pack()
pack = sys.modules[boot.node("InjectSStar").__module__.rpartition(".")[0] + ".subject_clip"]
single = {"dtype": torch.float32}  # half precision would round the reference
clip = comfy.sd.load_checkpoint_guess_config(
    CHECKPOINT, output_vae=False, output_model=False, te_model_options=single
)[1]


def tables(of) -> tuple[torch.Tensor, torch.Tensor]:
    """Token and position embedding as this CLIP has them."""
    return tuple(pack._patched(of, "l", name) for name in ("token_embedding", "position_embedding"))


def inject(into, rows: tuple[torch.Tensor, torch.Tensor]):
    tokens, positions = rows
    return pack.inject_subject(into, "S*", tokens[[320, 786]] + positions[4:6], "replace", 1.0)


def encode(of, tokens) -> torch.Tensor:
    return of.encode_from_tokens(tokens)


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


assert clip.tokenize("a man")["l"][0][1:3] == [(320, 1.0), (786, 1.0)], "the ids of 'a man'"
subject_clip, wanted = inject(clip, tables(clip)), encode(clip, clip.tokenize(PLAIN))
FOUND["S* is the word"] = error(encode(subject_clip, subject_clip.tokenize(PROMPT)), wanted)

# --- What a tokenizer looks like ---
outer, plain = subject_clip.tokenizer, clip.tokenizer
inner = outer.clip_l
FOUND["is a tokenizer"] = isinstance(outer, SD1Tokenizer) and isinstance(inner, SDTokenizer)
FOUND["has its names"] = (type(outer).__name__, type(inner).__name__) == ("SD1Tokenizer", "SDTokenizer")
FOUND["has its tokenizers and no others"] = [
    name for name, value in vars(outer).items() if hasattr(value, "tokenize_with_weights")
] == ["clip_l"]
same = {name for name in vars(plain.clip_l) if name not in ("inv_vocab",)}
FOUND["has its attributes"] = all(getattr(inner, name) is getattr(plain.clip_l, name) for name in same)
FOUND["has its vocabulary"] = inner.inv_vocab == plain.clip_l.inv_vocab
tokens = subject_clip.tokenize(PROMPT)["l"]
FOUND["untokenizes"] = [text for _, text in outer.untokenize(tokens[0])][4:6] == ["s</w>", "*</w>"]
FOUND["counts"] = [inner.inv_vocab[token] for token, _ in tokens[0]][4:6] == ["s</w>", "*</w>"]
FOUND["decodes"] = not hasattr(plain, "decode") or outer.decode([320, 786]) == plain.decode([320, 786])
FOUND["state dict"] = outer.state_dict().keys() == plain.state_dict().keys()
FOUND["inner tokenizer"] = error(encode(subject_clip, {"l": inner.tokenize_with_weights(PROMPT)}), wanted)
FOUND["word ids"] = [t[2] for t in inner.tokenize_with_weights(PROMPT, True)[0]] == [
    t[2] for t in plain.clip_l.tokenize_with_weights(PLAIN, True)[0]
]
FOUND["no numbers for words"] = 49407 not in [tokens[0][4][0]] and tokens[0][4][0] not in {338, 265}
for name, made in (("pickle", pickle.loads(pickle.dumps(outer))), ("deepcopy", copy.deepcopy(outer))):
    FOUND[name] = error(encode(subject_clip, made.tokenize_with_weights(PROMPT)), wanted)
option = subject_clip.clone()
option.set_tokenizer_option("clip_l_min_padding", 1) if hasattr(option, "set_tokenizer_option") else None
FOUND["options"] = len(option.tokenize(PROMPT)["l"][0]) == len(
    clip.tokenize(
        PLAIN,
        **({"tokenizer_options": option.tokenizer_options} if hasattr(option, "tokenizer_options") else {}),
    )["l"][0]
)
FOUND["original untouched"] = type(clip.tokenizer) is SD1Tokenizer and encode(
    clip, clip.tokenize(PROMPT)
).equal(encode(pack.plain_clip(subject_clip), pack.plain_clip(subject_clip).tokenize(PROMPT)))

# --- What other packs do ---
moved = [*tokens[0][:4], (539, 1.0), *tokens[0][4:76]]  # as if a node had put a token before S*
FOUND["moved by another node"] = error(
    encode(subject_clip, {"l": [moved]}),
    encode(subject_clip, subject_clip.tokenize("A photo of of S* as a chef")),
)
FOUND["glued by BREAK"] = error(encode(subject_clip, subject_clip.tokenize("A photo of S*as a chef")), wanted)
FOUND["joined before"] = (
    subject_clip.tokenize("a chefS* smiling")["l"][0][2][0] == clip.tokenize("a chefs* smiling")["l"][0][2][0]
)


def other_engine(self, texts, return_word_ids=False):  # lists of ids and of weights apart, as A1111 has them
    ids = [[token for token, _ in SDTokenizer.tokenize_with_weights(self, text)[0]] for text in texts]
    return [(ids, [[1.0] * 77 for _ in texts])]


inner.tokenize_with_weights = functools.partial(other_engine, inner)
((ids, weights),) = subject_clip.tokenize([PROMPT])["l"]
del inner.tokenize_with_weights
FOUND["another pack's engine"] = error(
    encode(subject_clip, {"l": [list(zip(ids[0], weights[0], strict=True))]}), wanted
)
FOUND["and it is gone afterwards"] = error(encode(subject_clip, subject_clip.tokenize(PROMPT)), wanted)


# --- What a person sees where S* is missing ---
class Recorder:
    def __init__(self) -> None:
        self.shown = []

    def send_progress_text(self, text: str, node_id: str) -> None:
        self.shown.append((node_id, text))


recorder = Recorder()
sys.modules["server"] = types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=recorder))
for text in ("A photo of a chef", PROMPT, ""):
    with CurrentNodeContext("prompt", "17", 0):
        subject_clip.tokenize(text)
FOUND["a notice on the node"] = [node for node, _ in recorder.shown] == ["17"] and "S*" in recorder.shown[0][
    1
]

# --- Patches of embeddings: the CLIP's own, and those of others that share its module ---
torch.manual_seed(0)
lora = {
    f"text_encoders.{PREFIX}.{name}.diff": 0.5 * torch.randn_like(table)
    for name, table in zip(("token_embedding", "position_embedding"), tables(clip), strict=True)
}
merged = clip.clone()
merged.add_patches(
    {f"{PREFIX}.position_embedding.weight": (lora[f"text_encoders.{PREFIX}.position_embedding.diff"],)}, 1.0
)
merged.add_patches(
    {f"{PREFIX}.token_embedding.weight": (lora[f"text_encoders.{PREFIX}.token_embedding.diff"],)}, 0.5, 0.7
)
merged_wanted = encode(merged, merged.tokenize(PLAIN))
FOUND["the patches matter"] = error(merged_wanted, wanted) > 0.1
merged_rows = tables(merged)
FOUND["a merged CLIP"] = error(encode(s := inject(merged, merged_rows), s.tokenize(PROMPT)), merged_wanted)
FOUND["a CLIP beside a merged one that ran"] = error(
    encode(s := inject(clip, tables(clip)), s.tokenize(PROMPT)), wanted
)
FOUND["tokenized before the other ran"] = error(
    (t := subject_clip.tokenize(PROMPT), encode(merged, merged.tokenize(PLAIN)), encode(subject_clip, t))[2],
    wanted,
)
after = subject_clip.clone()  # LoRA behind Inject S*
after.add_patches(
    {f"{PREFIX}.position_embedding.weight": (lora[f"text_encoders.{PREFIX}.position_embedding.diff"],)}, 1.0
)
only_positions = clip.clone()
only_positions.add_patches(
    {f"{PREFIX}.position_embedding.weight": (lora[f"text_encoders.{PREFIX}.position_embedding.diff"],)}, 1.0
)
same_vector = pack.inject_subject(
    only_positions, "S*", tables(clip)[0][[320, 786]] + tables(clip)[1][4:6], "replace", 1.0
)
FOUND["a LoRA behind Inject S*"] = error(
    encode(after, after.tokenize(PROMPT)), encode(same_vector, same_vector.tokenize(PROMPT))
)
hooks = comfy.hooks.create_hook_lora(lora=lora, strength_model=0.0, strength_clip=1.0)


def hooked(of):
    node = SetClipHooks()
    apply = getattr(node, "apply_hooks", None) or node.execute
    result = apply(of, False, False, hooks)
    return (result.result if hasattr(result, "result") else result)[0]


def scheduled(of, text: str) -> torch.Tensor:
    return of.encode_from_tokens_scheduled(of.tokenize(text), show_pbar=False)[0][0]


hook_tokens = tables(clip)[0] + lora[f"text_encoders.{PREFIX}.token_embedding.diff"]
hook_positions = tables(clip)[1] + lora[f"text_encoders.{PREFIX}.position_embedding.diff"]
hook_wanted = scheduled(hooked(clip), PLAIN)
FOUND["the hooks matter"] = error(hook_wanted, wanted) > 0.1
FOUND["a LoRA as a hook"] = error(
    scheduled(hooked(inject(clip, (hook_tokens, hook_positions))), PROMPT), hook_wanted
)
print(json.dumps(FOUND))
