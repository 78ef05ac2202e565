ip tunnel add tun0 mode gre remote
