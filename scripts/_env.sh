# shellcheck shell=bash
# The set-up that scripts/sweep.sh and scripts/test.sh share; it is sourced, not run.
#
#   ensure_env EXTRA...    leaves a .venv with the package (editable) and these extras, ready to use, in $venv
#
# A second call finds its own stamp and installs nothing, so it needs no network. While the caller lives it shares a lock on
# .venv; installing takes the lock alone, so that no install changes packages under a run. The environment variable
# NORMZOO_PYTHON names the interpreter to build .venv from.

root=$(CDPATH='' cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
setup_log=$venv/setup.log           # what the last install printed
setup_stamp=$venv/setup.stamp       # what the last finished install was for
setup_unfinished=$venv/setup.unfinished # there while packages are being unpacked
setup_lock=$venv/setup.lock

say() { printf 'setup: %s\n' "$*" >&2; }

# Succeeds for an interpreter that will do; else prints why not. The program must parse under Python 2 too.
will_do() {
  "$1" -c '
import sys
if sys.version_info < (3, 11):
    sys.exit("is Python %d.%d" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("has no venv module (on Debian and Ubuntu: apt install python3-venv)")
' 2>&1
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# Sets $base_python to the first interpreter that will do.
find_python() {
  local candidate fault tried=""
  for candidate in "${NORMZOO_PYTHON:-python3}" python3.13 python3.12 python3.11 python3.14 python; do
    if ! command -v "$candidate" >/dev/null 2>&1; then
      fault="not found"
    elif fault=$(will_do "$candidate"); then
      base_python=$candidate
      return 0
    fi
    tried="$tried
  $candidate: $(head -n 1 <<<"${fault:-does not start}")"
    if [ -n "${NORMZOO_PYTHON:-}" ]; then break; fi
  done
  say "normzoo needs Python 3.11 or newer, with venv. Tried:$tried"
  say "Install one, or name it: NORMZOO_PYTHON=/path/to/python3.12 bash scripts/..."
  return 2
}

# take_lock shared|alone. The kernel drops the lock when this shell ends, however it ends, so none is ever left behind.
# Python takes it, because macOS has no flock command; the lock belongs to descriptor 9 and outlives that Python.
take_lock() {
  "$base_python" - "$1" <<'PYTHON'
import fcntl, sys

kind = fcntl.LOCK_SH if sys.argv[1] == "shared" else fcntl.LOCK_EX
try:
    try:
        fcntl.flock(9, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        print("setup: .venv is in use by another scripts/sweep.sh or scripts/test.sh; waiting for it to end "
              "(Ctrl-C gives up) ...", file=sys.stderr, flush=True)
        fcntl.flock(9, kind)
except KeyboardInterrupt:
    sys.exit(130)
except OSError as error:
    print(f"setup: this file system has no locks ({error}); do not start two installs at once", file=sys.stderr)
PYTHON
}

# Prints what an install depends on: where it is, its Python, and what pyproject.toml says about building and requirements.
# Runs in the .venv, and so fails where the .venv is broken.
fingerprint() {
  "$venv/bin/python" - "$root" 2>/dev/null <<'PYTHON'
import hashlib, json, pathlib, sys, tomllib

config = tomllib.loads(pathlib.Path(sys.argv[1], "pyproject.toml").read_text(encoding="utf-8"))
parts = [config["build-system"], config["project"], config["tool"].get("hatch")]
digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
print(f"{digest} python{sys.version_info[0]}.{sys.version_info[1]} {sys.argv[1]}")
PYTHON
}

# The stamp holds a fingerprint on its first line and the installed extras, one a line, after it.
stamped_extras() { if [ -f "$setup_stamp" ]; then sed 1d "$setup_stamp"; fi; }
stamped_root() { if [ -f "$setup_stamp" ]; then sed -n '1s/^[^ ]* [^ ]* //p' "$setup_stamp"; fi; }

env_is_ready() {
  local extra now
  [ -f "$setup_stamp" ] && [ ! -e "$setup_unfinished" ] || return 1
  now=$(fingerprint) || return 1
  [ "$now" = "$(head -n 1 "$setup_stamp")" ] || return 1
  for extra in "$@"; do
    stamped_extras | grep -qxF -- "$extra" || return 1
  done
}

# Prints why the .venv has to be made anew, or nothing.
env_fault() {
  if [ -e "$setup_unfinished" ]; then
    echo "an earlier install was cut off"
  elif ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
    echo "its Python does not start or is older than 3.11"
  elif ! "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; then
    echo "it has no pip"
  elif [ -f "$setup_stamp" ] && [ "$(stamped_root)" != "$root" ]; then
    echo "it was made for $(stamped_root)"
  fi
}

# step "what it does" command...: its output goes to the log, and on failure the end of the log to the user.
step() {
  local what=$1 code=0
  shift
  printf '\n== %s: %s\n' "$what" "$*" >>"$setup_log"
  "$@" 2>&1 9>&- | tee -a "$setup_log" | show_progress || code=$?
  if [ "$code" -eq 0 ]; then return 0; fi
  {
    printf '\nsetup: FAILED to %s (exit code %s). The end of the log:\n' "$what" "$code"
    tail -n 15 "$setup_log" | cut -c 1-240 | sed 's/^/  | /'
    printf 'setup: the whole log: %s\nsetup: likely mend: %s\n' "$setup_log" "$(likely_mend)"
  } >&2
  return "$code"
}

# Of pip's some hundred lines, only what takes long: files of 50 MB and more, and the unpacking.
show_progress() {
  awk '/^ *Downloading / && match($0, /\([0-9.]+ [MG]B\)/) {
         size = substr($0, RSTART + 1, RLENGTH - 2); split(size, part, " ")
         if (part[2] == "GB" || part[1] >= 50) { name = $2; sub(/.*\//, "", name)
           print "setup:   downloading " name ", " size; fflush() }
       }
       /^Installing collected packages/ { print "setup:   unpacking (this is the longest part)"; fflush() }' >&2
}

likely_mend() {
  case $(tail -n 60 "$setup_log") in
    *"No space left"* | *"Disk quota"*)
      echo "free disk space: .venv takes about 6 GB (torch with its CUDA packages), pip's cache and \$TMPDIR (${TMPDIR:-/tmp})" \
        "3 GB more; here are $(df -Ph "$venv" | awk 'NR == 2 { print $4 }') free." ;;
    *ensurepip*)
      echo "this Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv;" \
        "or name another one by NORMZOO_PYTHON." ;;
    *onnection* | *"Max retries"* | *"timed out"*)
      echo "the package registry was not reached: check the network and proxy, then run the same command again." ;;
    *"No matching distribution found for torch"* | *"requires a different Python"*)
      echo "there may be no torch for this Python ($(version_of "$venv/bin/python")) yet;" \
        "remove .venv and name another one: NORMZOO_PYTHON=python3.12." ;;
    *"No matching distribution"*)
      echo "the package registry has no such package, or was not asked: check pip's settings ('pip config list')," \
        "then run the same command again." ;;
    *Permission* | *"Read-only"*)
      echo "make $root writable for you, or copy the checkout to where it is." ;;
    *)
      echo "read the log; then run the same command again, or remove .venv first to start afresh." ;;
  esac
}

check_imports() {
  local modules="torch normzoo"
  case " $* " in *" sweep "*) modules="torch torchvision hydra normzoo" ;; esac
  (cd "$venv" && "$venv/bin/python" -c "import ${modules// /, }")
}

install_env() {
  local fault extras began=$SECONDS
  if [ -n "$(find "$venv" -mindepth 1 -maxdepth 1 ! -name 'setup.*' | head -n 1)" ]; then
    fault=$(env_fault)
    if [ -n "$fault" ]; then
      if [ ! -f "$venv/pyvenv.cfg" ] && [ ! -e "$setup_unfinished" ]; then
        say "$venv is there but is no virtual environment; move it away and run again"
        return 2
      fi
      say "making .venv anew: $fault"
      find_python || return
      find "$venv" -mindepth 1 -maxdepth 1 ! -name 'setup.lock' -exec rm -rf -- {} +
    fi
  fi
  : >"$setup_log"
  if [ ! -x "$venv/bin/python" ]; then
    say "making .venv with $(command -v "$base_python") ($("$base_python" -V 2>&1))"
    : >"$setup_unfinished"
    step "make the virtual environment" "$base_python" -m venv "$venv" || return
    rm -f "$setup_unfinished"
  fi
  extras=$({ printf '%s\n' "$@"; stamped_extras; } | sort -u | paste -sd, -)
  say "installing normzoo[$extras] into .venv: about two minutes and 6 GB the first time; log: $setup_log"
  : >"$setup_unfinished"
  install_packages "$extras" || return
  step "import what was installed" check_imports "$@" || return
  { fingerprint; tr , '\n' <<<"$extras"; } >"$setup_stamp.new"
  mv -f "$setup_stamp.new" "$setup_stamp"
  rm -f "$setup_unfinished"
  say "ready after $((SECONDS - began)) s"
}

pip_install() { cd "$root" && "$venv/bin/python" -m pip install --no-input --disable-pip-version-check -e ".[$1]"; }

install_packages() {
  local code=0
  step "install the packages" pip_install "$1" || code=$?
  # Until it unpacks, pip changes nothing: no need to start from nothing after a lost connection.
  if [ "$code" -ne 0 ] && ! grep -q '^Installing collected packages' "$setup_log"; then rm -f "$setup_unfinished"; fi
  return "$code"
}

ensure_env() {
  local has
  if ! mkdir -p "$venv" 2>/dev/null || ! { : >>"$setup_lock"; } 2>/dev/null; then
    say "cannot write to $venv: make the checkout writable, or copy it to where it is"
    return 2
  fi
  exec 9>>"$setup_lock"
  has=$(version_of "$venv/bin/python") || has=""
  if [ -n "$has" ] && [ -z "${NORMZOO_PYTHON:-}" ]; then
    base_python=$venv/bin/python
  else
    find_python || return
    if [ -n "$has" ] && [ "$has" != "$(version_of "$base_python")" ]; then
      say ".venv has Python $has, NORMZOO_PYTHON=$NORMZOO_PYTHON another; remove .venv, or unset NORMZOO_PYTHON"
      return 2
    fi
  fi
  take_lock shared || return
  if env_is_ready "$@"; then return 0; fi
  take_lock alone || return
  # Another run may have installed while this one waited.
  if ! env_is_ready "$@"; then install_env "$@" || return; fi
  take_lock shared
}
