# The hardware of coordinator: `nixos-generate-config --show-hardware-config`, its boot loader and its users.
{
  boot.loader.systemd-boot.enable = true;
  fileSystems."/".device = "/dev/disk/by-label/nixos";
  fileSystems."/".fsType = "ext4";
  system.stateVersion = "26.05";
}
