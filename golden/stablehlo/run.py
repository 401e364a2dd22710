#!/usr/bin/env python3
"""Compiles and runs the StableHLO `step` of a small network and compares it with `reference`.

    cargo run -p npid-engine --example stablehlo_step -- OUT
    python golden/stablehlo/run.py OUT [PLUGIN.so]

PLUGIN is a library that exports GetPjrtApi: by default that of `lammps-jax-pjrt-cpu` or
`fastatomstruct-xla-cpu`, whichever is installed (both from PyPI, beside jax, numpy, safetensors);
`jaxlib` runs it through jaxlib's own CPU client. Exits with 1 if a number is off.
"""

import importlib.util
import pathlib
import sys

import jax
import numpy as np
from jax._src import xla_bridge
from jax._src.lib import xla_client
from safetensors import safe_open

TOLERANCE = 2e-5


def installed():
    for package, library in [
        ("lammps_jax_pjrt_cpu", "pjrt_c_api_cpu_plugin.so"),
        ("fastatomstruct_xla_cpu", "libpjrt_cpu.so"),
    ]:
        found = importlib.util.find_spec(package)
        if found:
            return pathlib.Path(found.submodule_search_locations[0]) / library
    raise SystemExit("no plugin: pip install lammps-jax-pjrt-cpu, or name a library")


def device_of(plugin):
    if str(plugin) == "jaxlib":
        return jax.devices("cpu")[0]
    xla_bridge.register_plugin("proof", library_path=str(plugin))
    jax.config.update("jax_platforms", "proof")
    return jax.devices("proof")[0]


def main():
    out = pathlib.Path(sys.argv[1])
    plugin = sys.argv[2] if len(sys.argv) > 2 else installed()
    device = device_of(plugin)
    backend = device.client
    print(f"{plugin}: {backend.platform} {backend.platform_version}, jax {jax.__version__}")
    text = (out / "step.mlir").read_text()
    devices = xla_client.DeviceList((device,))
    program = backend.compile_and_load(text.encode(), devices, xla_client.CompileOptions())

    with safe_open(out / "step.safetensors", "np") as f:
        tensors = {k: f.get_tensor(k) for k in f.keys()}
        names = f.metadata()["states"].split("\n")
    state = [tensors[f"state0.{n}"] for n in names]
    failed = False
    steps = sum(k.startswith("loss") for k in tensors)
    for step in range(steps):
        inputs = [tensors[f"{n}{step}"] for n in ("pixels", "rows", "lr")] + state
        buffers = [jax.device_put(x, device) for x in inputs]
        results = program.execute_sharded(buffers).disassemble_into_single_device_arrays()
        loss, *state = [np.asarray(r[0]) for r in results]
        checks = [("loss", loss, tensors[f"loss{step + 1}"])]
        checks += [(n, s, tensors[f"state{step + 1}.{n}"]) for n, s in zip(names, state)]
        # Momentum is judged beside the largest: that of a bias before a norm is 0 in truth.
        scale = max(np.abs(w).max() for n, _, w in checks if n.startswith("optimizer"))
        worst = 0.0
        for name, got, want in checks:
            floor = scale if name.startswith("optimizer") else np.abs(want).max()
            off = np.abs(got - want).max() / max(floor, 1e-3)
            worst = max(worst, off)
            if got.shape != want.shape or not off < TOLERANCE:
                failed = True
                print(f"step {step + 1}: {name} is off by {off:.1e}")
        print(f"step {step + 1}: loss {loss:.6f}, {len(checks)} results, worst off by {worst:.1e}")
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
