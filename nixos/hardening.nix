# The sandbox that every unit of gretun runs in. A unit adds what it must have: capabilities, address families, its
# directories.
{
  # A user of its own without an entry in /etc/passwd. It implies ProtectSystem=strict, PrivateTmp, RemoveIPC,
  # RestrictSUIDSGID and NoNewPrivileges; those that NixOS modules usually spell out are spelt out here too.
  DynamicUser = true;
  UMask = "0077";

  LockPersonality = true;
  MemoryDenyWriteExecute = true;
  NoNewPrivileges = true;
  PrivateDevices = true;
  PrivateMounts = true;
  PrivateTmp = true;
  ProtectClock = true;
  ProtectControlGroups = true;
  ProtectHome = true;
  ProtectHostname = true;
  ProtectKernelLogs = true;
  ProtectKernelModules = true;
  ProtectKernelTunables = true;
  ProtectProc = "invisible";
  ProtectSystem = "strict";
  RemoveIPC = true;
  RestrictNamespaces = true;
  RestrictRealtime = true;
  RestrictSUIDSGID = true;
  SystemCallArchitectures = "native";
  SystemCallErrorNumber = "EPERM";
  SystemCallFilter = [
    "@system-service"
    "~@privileged @resources"
  ];
}
