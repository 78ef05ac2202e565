# shellcheck shell=bash
# What the scripts here share: where things are, and how to speak. Sourced, never run.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-${HOME:-$repository/target}/.cache}/gretun
venv=$cache/venv
# NetworkManager's command, unpacked and not installed: its daemon must not run here.
# shellcheck disable=SC2034 # for the scripts that source this
networkmanager=$cache/networkmanager
# The routers' server for port mapping, unpacked and not installed: it must not run here either.
# shellcheck disable=SC2034
miniupnpd=$cache/miniupnpd
# Cargo's own variable wins, so that scripts find what cargo builds.
target=${CARGO_TARGET_DIR:-$repository/target}
export PATH=$venv/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin

if [ -t 1 ]; then
	bold=$'\e[1m' red=$'\e[31m' plain=$'\e[0m'
else
	bold='' red='' plain=''
fi

say() {
	printf '%s\n' "$bold==> $*$plain"
}

die() {
	printf '%s\n' "${red}error: $*$plain" >&2
	exit 1
}

# release_programs DIR TRIPLE [RUSTC-OPTION...]: builds both programs as packages have them, each by its profile (Cargo.toml), and puts them
# into DIR.
release_programs() {
	local directory=$1 triple=$2
	shift 2
	cargo rustc --locked --target "$triple" --profile small --bin gretun -- "$@"
	cargo rustc --locked --target "$triple" --release --bin gretun-coord -- "$@"
	mkdir -p "$directory"
	install "$target/$triple/small/gretun" "$target/$triple/release/gretun-coord" "$directory"
}

# The driver of the virtual machine and its scenarios; it reads what `lab_input` names.
lab() {
	(cd "$repository/nixos-tests" && PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" -m driver --programs "$target/${profile:-debug}" "$@" <"${lab_input:-/dev/null}")
}
