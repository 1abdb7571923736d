# Sourced by the other scripts: makes .venv beside them, once, with what constraints.txt pins.
# Needs Python 3.11, 3.12 or 3.13 with venv. An install that was cut off is finished by the next call.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
wanted=$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)

if [ ! -x "$python" ]; then
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      found=$candidate
      break
    fi
  done
  if [ -z "${found:-}" ]; then
    echo "distill needs Python 3.11, 3.12 or 3.13. Found: $(python3 --version 2>&1). Install one and run this again." >&2
    exit 1
  fi
  echo "making $root/.venv with $("$found" --version)" >&2
  "$found" -m venv "$root/.venv"
fi

if [ "$(cat "$root/.venv/installed" 2>/dev/null)" != "$wanted" ]; then
  echo "installing what distill needs into $root/.venv: about 3 GB and a few minutes, once" >&2
  "$python" -m pip install --disable-pip-version-check --progress-bar off \
    --constraint "$root/constraints.txt" --editable "$root[experiments,dev]" >&2
  echo "$wanted" >"$root/.venv/installed"
fi

# TensorFlow's start-up notices are not about this program; set it to 0 to see them.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
