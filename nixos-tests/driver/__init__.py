"""The local driver: runs the scenarios of `nixos-tests/` without Nix.

Two halves share this package. The host half (`__main__`, `host`, `vm`) boots one QEMU guest and collects results. The guest half
(`guest`, `world`, `machine`) builds each scenario out of network namespaces and executes its script. `topology` is what both
read. Standard library only.
"""
