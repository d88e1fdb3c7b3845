# shellcheck shell=bash
# Sourced by up, down and shell: where the cluster is, and how to run something there.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

if [[ $(dmesg 2>/dev/null) == *gVisor* || $(</proc/version) == *gvisor* ]]; then
  here=yes bin=$PWD/out/bin
else
  here='' bin=/opt/terrarium/bin # out/ as `up` binds it
fi
# shellcheck disable=SC2034 # for those who source this
manifests=${bin%/bin}/share/terrarium/manifests

fail() {
  printf '%s\n' "error: $1" "${@:2}" >&2
  exit 1
}

# Runs "$@" where the cluster is; with -t first, on this terminal.
inside() {
  if [ "$here" ]; then
    [ "$1" != -t ] || shift
    "$@"
  elif [ "$1" = -t ]; then
    shift
    out/bin/testbed exec -t -- "$@"
  else
    out/bin/testbed exec -- "$@"
  fi
}

sandbox_runs() { [ -x out/bin/testbed ] && { [ "$here" ] || inside true; } >/dev/null 2>&1; }
