"""Names of published weights, as `from_torch(..., names=...)` takes them, for models of ours."""

TORCHVISION_RESNET = {
    "conv1": "stem",
    "bn1": "stem_norm",
    "layer*.*.conv*": "stage*.block*.conv*",
    "layer*.*.bn*": "stage*.block*.norm*",
    "layer*.*.downsample.0": "stage*.block*.project",
    "layer*.*.downsample.1": "stage*.block*.project_norm",
    "fc": "head",
}
"""`fn.models.resnet` with the "imagenet" stem, and torchvision's `resnet18`, `34` and `50`."""

GPT2 = {
    "wte": "tokens",
    "wpe": "positions",
    "h.*.ln_*": "blocks.*.norm*",
    "h.*.attn.c_attn": "blocks.*.attention.qkv",
    "h.*.attn.c_proj": "blocks.*.attention.out",
    "h.*.mlp.c_fc": "blocks.*.feed.up",
    "h.*.mlp.c_proj": "blocks.*.feed.down",
    "ln_f": "norm",
}
"""`fn.models.gpt`, and GPT-2 as Hugging Face publishes it, its tensors through
`untransposed(tensors, "*.c_attn", "*.c_proj", "*.c_fc")`, without `attn.bias`, which is a mask."""
