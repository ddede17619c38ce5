"""Compile kernels for a Hopper, which takes no GPU, and tell what they load and store.

Each `compile_*_kernels.py` is a process of its own: where kernels are interpreted they cannot be compiled.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def told_by(script, cache, *arguments):
    """Run a script beside this file, which prints what it found as JSON; return that."""
    root = str(HERE.parents[2])
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": root}
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ptx(function, types, constants, aligned, **options):
    """Return the PTX of a kernel; `aligned` arguments are multiples of 16."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = list(function.arg_names)
    source = ASTSource(
        function,
        {name: types.get(name, "constexpr") for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        {(n,): [["tt.divisibility", 16]] for n, name in enumerate(names) if name in aligned},
    )
    return compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


def widest(text, way):
    """Return the bytes of the widest global access in PTX; `way` is ld or st."""
    result = re.findall(rf"{way}\.global(?:\.v(\d))?\S*\.b(\d+)", text)
    return max(int(count or 1) * int(bits) // 8 for count, bits in result)


def waits(text):
    """Return how often the loops of PTX have all warps of a program wait for each other."""
    lines = text.splitlines()
    labels = {line.split(":")[0]: number for number, line in enumerate(lines) if re.match(r"\$\S+:", line)}
    result = 0
    for number, line in enumerate(lines):
        back = re.search(r"bra\S*\s+(\$\S+);", line)
        if back and labels[back.group(1)] < number:
            result += sum("bar.sync" in each for each in lines[labels[back.group(1)] : number])
    return result


def spills(text):
    """Return the bytes that the assembler spills of PTX, in stores and loads."""
    from triton.backends.nvidia.compiler import get_ptxas

    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(text)
        file.flush()
        command = [get_ptxas(90).path, "-v", "--gpu-name=sm_90a", file.name, "-o", os.devnull]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stderr
    assert "registers" in output, output
    return sum(map(int, re.findall(r"(\d+) bytes spill", output)))
