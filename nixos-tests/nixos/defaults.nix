# What all machines of all scenarios have.
{ pkgs, ... }:
{
  # The networks of the topology come after NixOS's own eth0, which stays without an address: were it not there, udev could
  # not name the others, because the kernel has given their names to each other.
  virtualisation.vlans = [ ];
  virtualisation.memorySize = 512;

  # Nothing that a machine of a test does without.
  documentation.enable = false;
  nix.enable = false;
  system.disableInstallerTools = true;

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
