# Varnish 7 as a cache of a site before one plain HTTP origin of images: as /etc/varnish/lazysif.vcl, with a store on
# disk (varnishd -f /etc/varnish/lazysif.vcl -s bytes=file,/var/lib/varnish/images,400G -s Transient=malloc,1g).
# Varnish keeps whole files: the first node that reads a byte of an image makes it fetch all of it.
# What that costs and when nginx is the better choice: docs/site-cache.md. CHANGE marks what must be changed.

vcl 4.1;

# CHANGE the origin. Varnish speaks no TLS to origins: put stunnel or hitch between, or use nginx.
backend images {
  .host = "images.example.org";
  .port = "80";
  .connect_timeout = 5s;
  .first_byte_timeout = 20s;
  .between_bytes_timeout = 20s;
}

# CHANGE who may ask: with access to this cache goes access to all that is in it.
acl nodes {
  "10.0.0.0"/8;
  "127.0.0.0"/8;
}

sub vcl_recv {
  if (client.ip !~ nodes) { return (synth(403)); }
  if (req.method != "GET" && req.method != "HEAD") { return (synth(405)); }
  # CHANGE the name by which the origin knows itself.
  set req.http.Host = "images.example.org";
  unset req.http.Cookie;
  # Who shows credentials of his own gets his own answer.
  if (req.http.Authorization) { return (pass); }
  # What a name means goes to the origin: Varnish cannot keep a part of a file (it refuses a 206 to what it fetches
  # for everybody), and most of these questions are answered by 304.
  if (!req.http.If-Match && !req.http.If-Unmodified-Since) { return (pass); }
  # Bytes of one version: they never change.
  set req.http.X-Version = "match " + req.http.If-Match + " since " + req.http.If-Unmodified-Since;
  unset req.http.X-If-Match;
  unset req.http.X-If-Unmodified-Since;
  if (req.http.If-Match) { set req.http.X-If-Match = req.http.If-Match; }
  if (req.http.If-Unmodified-Since) { set req.http.X-If-Unmodified-Since = req.http.If-Unmodified-Since; }
  return (hash);
}

sub vcl_hash {
  hash_data(req.http.X-Version);
}

sub vcl_backend_fetch {
  # Varnish takes conditions out of what it fetches for everybody; these say which version is wanted.
  if (bereq.http.X-If-Match) { set bereq.http.If-Match = bereq.http.X-If-Match; }
  if (bereq.http.X-If-Unmodified-Since) {
    set bereq.http.If-Unmodified-Since = bereq.http.X-If-Unmodified-Since;
  }
  unset bereq.http.X-If-Match;
  unset bereq.http.X-If-Unmodified-Since;
  set bereq.http.Accept-Encoding = "identity";
}

sub vcl_backend_response {
  if (bereq.uncacheable) { return (deliver); }
  unset beresp.http.Set-Cookie;
  unset beresp.http.Vary;
  set beresp.grace = 0s;
  set beresp.keep = 0s;
  if (beresp.status == 200) {
    set beresp.ttl = 365d;
    set beresp.storage = storage.bytes;
  } else {
    set beresp.ttl = 0s;
    set beresp.uncacheable = true;
  }
  return (deliver);
}
