# Varnish before the benchmark's origin: its built-in rules. @ORIGIN@ is set as it is
# started. For the rest see `varnish` in servers.py: malloc storage, and the defaults.
vcl 4.1;

backend default {
    .host = "127.0.0.1";
    .port = "@ORIGIN@";
}
