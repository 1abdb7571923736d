# The other scripts source this file. It makes .venv once, with the versions that constraints.txt pins, and sets $python.
# Before sourcing it, name what goes into .venv, as extras of pyproject.toml: extras="experiments onnx" source environment.sh
# All commands share .venv; a command that needs more adds it. If an installation is interrupted, the next call finishes it.
# Needs Python 3.11, 3.12 or 3.13 with venv.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
wanted=$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum | tr ' ' -)
installed=" $(cat "$root/.venv/installed" 2>/dev/null || true) " # the versions in .venv, as $wanted, and the extras
[[ "$installed" == " $wanted "* ]] || installed=""

# Where Python is told to write no compiled files beside sources, they go into .venv: without any, each start of TensorFlow
# would take three times as long.
if [ -n "${PYTHONDONTWRITEBYTECODE:-}" ]; then
  unset PYTHONDONTWRITEBYTECODE
  export PYTHONPYCACHEPREFIX=${PYTHONPYCACHEPREFIX:-$root/.venv/compiled}
fi

# MB to download and on disk, for pip's wheels on Linux with Python 3.11: distill with TensorFlow, and what each extra adds.
export -n extras # those of this command are not for what it starts
missing="" download=0 disk=0
[ -n "$installed" ] || download=640 disk=2200
for extra in ${extras:=experiments dev}; do
  [[ "$installed" == *" $extra "* ]] && continue
  missing+=" $extra"
  case $extra in
    experiments) download=$((download + 220)) disk=$((disk + 700)) ;;
    onnx) download=$((download + 40)) disk=$((disk + 120)) ;;
    docs) download=$((download + 30)) disk=$((disk + 110)) ;;
    dev) download=$((download + 270)) disk=$((disk + 1050)) ;; # with onnx and text
  esac
done

if [ -n "$missing" ]; then
  echo "installing$missing into $root/.venv, once: up to $download MB to download, $disk MB on disk, some minutes" >&2
  rm -f "$root/.venv/installed"
  if ! "$python" -m pip --version >/dev/null 2>&1; then
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
    "$found" -m venv --clear "$root/.venv"
  fi
  extras=$(printf '%s\n' $extras ${installed#* "$wanted"} | sort -u | paste -sd ' ' -) # and those that are there already
  # Python compiles files when they are imported. Those are a fifth of all files, so compiling no others saves a minute.
  "$python" -m pip install --disable-pip-version-check --progress-bar off --no-compile \
    --constraint "$root/constraints.txt" --editable "$root[${extras// /,}]" >&2
  echo "$wanted $extras" >"$root/.venv/installed"
fi

# TensorFlow's notices are not about this program; set it to 0 to see them.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}
# On processors without AVX-512 VNNI, TensorFlow leaves oneDNN's kernels off, although small convolutions train 2.8 times
# as fast with them there. On other processors they are on anyway, so with this setting all machines run the same kernels.
export TF_ENABLE_ONEDNN_OPTS=${TF_ENABLE_ONEDNN_OPTS:-1}
