#!/bin/sh
# Runs a command in a root file system: release/roots.py starts it in a user and mount namespace of its own, so that
# nothing of this is seen outside, and all of it is gone with the command.
#
# usage: inside.sh ROOT EMULATOR CPUINFO [FOLDER...] -- COMMAND...
# EMULATOR and CPUINFO are empty for the machine's own programs; each FOLDER is seen inside by its own path.
set -eu
root=$1 emulator=$2 cpuinfo=$3
shift 3

for folder in proc sys dev tmp; do mkdir -p "$root/$folder"; done
for folder in proc sys; do mount --rbind "/$folder" "$root/$folder"; done
for device in null zero full random urandom; do
  [ -e "$root/dev/$device" ] || : > "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
while [ "$1" != -- ]; do
  mkdir -p "$root$1"
  mount --bind "$1" "$root$1"
  shift
done
shift

if [ -n "$emulator" ]; then
  # onnxruntime asks /proc/cpuinfo what kind of ARM it runs on, and ends the process over an x86 answer.
  mount --bind "$cpuinfo" "$root/proc/cpuinfo"
  mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
  # ELF, 64 bits, little-endian, executable or shared, aarch64. F: the emulator is opened now, outside of the root.
  magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
  mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
  printf '%s' ":aarch64:M::$magic:$mask:$emulator:F" > /proc/sys/fs/binfmt_misc/register
fi
exec chroot "$root" "$@"
