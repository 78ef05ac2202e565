# What all machines of all scenarios have.
{ lib, pkgs, ... }:
{
  # Only the networks of the topology: NixOS's own eth0 has the same address on every machine.
  virtualisation.qemu.networkingOptions = lib.mkForce [ ];
  virtualisation.vlans = [ ];

  networking = {
    useDHCP = false;
    tempAddresses = "disabled";
    nftables.enable = true;
  };

  # Addresses are there when they are given, not after a second.
  boot.kernel.sysctl = {
    "net.ipv6.conf.all.accept_dad" = 0;
    "net.ipv6.conf.default.accept_dad" = 0;
  };

  environment.systemPackages = with pkgs; [
    conntrack-tools
    ethtool
    iperf3
    iproute2
    iputils
    kmod
    nftables
    python3
    tcpdump
  ];
}
