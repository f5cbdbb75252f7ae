"""What the mock says of itself, in the words of the servers that it stands in for. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadgen.mock.work import Load

VERSION = "0.0.0+slackwater.mock"
METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


def metrics(load: Load, model: str) -> bytes:
    """`/metrics`: the five gauges that routers read, and the counters of tokens."""
    name = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    label = f'model_name="{name}",engine="0"'
    used = load.kv_used / load.kv_total if load.kv_total else 0.0
    blocks = load.kv_total // load.block
    config = f'block_size="{load.block}",num_gpu_blocks="{blocks}",enable_prefix_caching="True",engine="0"'
    lora = 'running_lora_adapters="",waiting_lora_adapters="",max_lora="0"'
    rows = [
        ("vllm:num_requests_running", "gauge", label, load.running),
        ("vllm:num_requests_waiting", "gauge", label, load.waiting),
        ("vllm:kv_cache_usage_perc", "gauge", label, used),
        ("vllm:cache_config_info", "gauge", config, 1.0),
        ("vllm:lora_requests_info", "gauge", lora, 0.0),
        ("vllm:num_preemptions_total", "counter", label, load.preemptions),
        ("vllm:prompt_tokens_total", "counter", label, load.prompt_tokens),
        ("vllm:prefix_cache_hits_total", "counter", label, load.cached_tokens),
        ("vllm:generation_tokens_total", "counter", label, load.output_tokens),
    ]
    lines = [f"# TYPE {name} {kind}\n{name}{{{labels}}} {float(value)}\n" for name, kind, labels, value in rows]
    return "".join(lines).encode()


def loads(load: Load, seconds: float) -> dict[str, object]:
    """`/v1/loads`."""
    entry = {
        "dp_rank": 0,
        "num_running_reqs": load.running,
        "num_waiting_reqs": load.waiting,
        "num_total_reqs": load.running + load.waiting,
        "num_used_tokens": load.kv_used,
        "max_total_num_tokens": load.kv_total,
        "token_usage": load.kv_used / load.kv_total if load.kv_total else 0.0,
    }
    return {"timestamp": seconds, "version": VERSION, "dp_rank_count": 1, "loads": [entry]}


def server_info(model: str, load: Load, rows: int) -> dict[str, object]:
    """`/server_info`."""
    return {
        "model_path": model,
        "served_model_name": model,
        "version": VERSION,
        "tp_size": 1,
        "dp_size": 1,
        "max_running_requests": rows,
        "max_total_num_tokens": load.kv_total,
        "page_size": load.block,
        "disaggregation_mode": "null",
    }


def model_info(model: str) -> dict[str, object]:
    """`/model_info`."""
    return {
        "model_path": model,
        "tokenizer_path": model,
        "served_model_name": model,
        "is_generation": True,
        "model_type": "mock",
    }


def models(model: str, context: int) -> dict[str, object]:
    """`/v1/models`."""
    entry = {
        "id": model,
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "slackwater-loadgen",
        "root": model,
        "max_model_len": context,
    }
    return {"object": "list", "data": [entry]}
