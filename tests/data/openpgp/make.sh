#!/bin/bash
# Makes OpenPGP keys and signatures with GnuPG 2.2: good ones, and of each kind that is to be refused. The private keys
# are thrown away, but for that of a stranger. NAME.pgp is a keyring, SIGNATURE.sig a signature over 'sums' by its key; see trust/openpgp/tests.rs.
#
# Usage: make.sh     (beside this file; needs gpg, python3, sha256sum)
set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here"
homes=$(mktemp -d)
trap 'for home in "$homes"/*/; do gpgconf --homedir "$home" --kill all || true; done; rm -rf "$homes"' EXIT
rm -f ./*.pgp ./*.sig ./*.asc

# at DATE HOME ARGUMENT...: gpg at a time, with a home of its own.
at() {
    local date=$1 home=$homes/$2
    shift 2
    mkdir -p "$home"
    chmod 700 "$home"
    gpg --homedir "$home" --no-options --batch --quiet --yes --pinentry-mode loopback --passphrase '' \
        --faked-system-time "$date!" --trust-model always --no-auto-check-trustdb "$@"
}
made=20240101T000000 signed=20240301T000000 later=20240901T000000

# key NAME ALGORITHM USAGE EXPIRY OPTION...: a new key in the home NAME.
key() {
    local name=$1 algorithm=$2 usage=$3 expiry=$4
    shift 4
    at $made "$name" "$@" --quick-generate-key "$name <$name@example.org>" "$algorithm" "$usage" "$expiry"
}
fingerprint() { at $later "$1" --with-colons --list-keys "$1@example.org" | awk -F: '$1=="fpr" {print $10; exit}'; }
subkey() { at $made "$1" --quick-add-key "$(fingerprint "$1")" "$2" "$3" "$4"; }
keyring() { at $later "$1" --export-options export-attributes --export "$1@example.org" >"$1.pgp"; }
# sign HOME SIGNATURE OPTION...: over 'sums', at the time of signatures.
sign() {
    local home=$1 signature=$2
    shift 2
    at $signed "$home" --digest-algo SHA256 "$@" --output "$signature.sig" --detach-sign sums
}
# revoke NAME REASON: with the certificate that gpg wrote when it made the key, or a new one for another reason.
revoke() {
    printf 'y\n%s\n\ny\n' "$2" | gpg --homedir "$homes/$1" --no-options --quiet --yes --pinentry-mode loopback \
        --passphrase '' --faked-system-time "$later!" --command-fd 0 --no-tty --output "$homes/$1.rev" \
        --gen-revoke "$(fingerprint "$1")"
    at $later "$1" --import "$homes/$1.rev"
}
edit() {
    local name=$1
    shift
    printf '%s\n' "$@" save | gpg --homedir "$homes/$name" --no-options --quiet --yes --pinentry-mode loopback \
        --passphrase '' --faked-system-time "$later!" --expert --command-fd 0 --no-tty \
        --edit-key "$(fingerprint "$name")"
}

for name in image.raw image.roothash other.raw; do printf '%s' "$name" >"$homes/$name"; done
(cd "$homes" && sha256sum image.raw image.roothash other.raw) >sums

# Good ones: what signs, and in which form.
key rsa rsa3072 sign,cert never
key ed25519 ed25519 sign,cert never
key p256 nistp256 sign,cert never
key subkey ed25519 cert never
subkey subkey ed25519 sign never
for name in rsa ed25519 p256 subkey; do keyring $name; sign $name $name; done
at $later ed25519 --armor --export >ed25519-armoured.pgp
sign ed25519 ed25519-armoured --armor
cat rsa.pgp ed25519.pgp subkey.pgp >several.pgp

# The key went on: one expiry has passed, and a newer signature of the key itself has another.
key extended ed25519 sign,cert 2024-06-01
sign extended extended
at $later extended --export >"$homes/old"
at $later extended --quick-set-expire "$(fingerprint extended)" 2044-01-01
at $later merged --import "$homes/old"
at $later extended --export | at $later merged --import
cp -r "$homes/merged" "$homes/extended-both" && at $later extended-both --export >extended.pgp

# Ended, or taken back.
key expired ed25519 sign,cert 2024-06-01
key expired-subkey ed25519 cert never
subkey expired-subkey ed25519 sign 2024-06-01
key revoked ed25519 sign,cert never
key retired ed25519 sign,cert never
key revoked-subkey ed25519 cert never
subkey revoked-subkey ed25519 sign never
key revoker ed25519 sign,cert never
key designated ed25519 sign,cert never
for name in expired expired-subkey revoked retired revoked-subkey designated; do sign $name $name; done
revoke revoked 1
revoke retired 3
edit revoked-subkey 'key 1' revkey y 0 '' y
at $later revoker --export >"$homes/revoker.pgp"
at $later designated --import "$homes/revoker.pgp"
edit designated addrevoker "$(fingerprint revoker)" y
at $later designated --export >"$homes/designated.pgp"
at $later revoker --import "$homes/designated.pgp"
printf 'y\n1\n\ny\n' | gpg --homedir "$homes/revoker" --no-options --quiet --yes --pinentry-mode loopback \
    --passphrase '' --faked-system-time "$later!" --command-fd 0 --no-tty --output "$homes/designated.rev" \
    --desig-revoke "$(fingerprint designated)"
at $later designated --import "$homes/designated.rev"
for name in expired expired-subkey revoked retired revoked-subkey designated revoker; do keyring $name; done
cp "$homes/designated.pgp" designated-before.pgp

# Not made to sign, or not any more.
key not-signing ed25519 sign,cert never
sign not-signing not-signing
edit not-signing change-usage S Q
keyring not-signing

# Too weak.
key weak-rsa rsa1024 sign,cert never
key weak-dsa dsa2048 sign,cert never
key weak-self rsa2048 sign,cert never --cert-digest-algo SHA1
for name in weak-rsa weak-dsa weak-self; do keyring $name; sign $name $name; done
sign rsa weak-sha1 --digest-algo SHA1
sign rsa weak-ripemd160 --digest-algo RIPEMD160

# Signatures that say more or less than they should.
sign rsa critical-notation --sig-notation '!unheard-of@example.org=x'
sign rsa notation --sig-notation 'unheard-of@example.org=x'
sign rsa text --textmode
sign rsa ends --default-sig-expire 10d
printf 'other' | at $signed rsa --output other-bytes.sig --detach-sign
key stranger ed25519 sign,cert never
sign stranger stranger
cat stranger.sig rsa.sig >two.sig
cat stranger.sig expired.sig >two-bad.sig
at $signed rsa --clear-sign --output clear.sig sums
at $later stranger --export-secret-keys >secret.pgp
cp "$homes/stranger/pubring.kbx" keybox.pgp

python3 edit.py subkey.pgp no-back-signature.pgp
