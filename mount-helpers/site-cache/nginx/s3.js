// Signature Version 4 for a bucket behind the cache (njs 0.7 or later): nodes ask without credentials, the cache with.
// The credentials are the two or three lines of /etc/nginx/lazysif/s3-credentials, read for each request, so that
// they can be replaced at any time: access key, secret key, session token.

const crypto = require('crypto');
const fs = require('fs');

function credentials() {
  return fs.readFileSync('/etc/nginx/lazysif/s3-credentials', 'utf8').trim().split('\n');
}

function hmac(key, text) {
  return crypto.createHmac('sha256', key).update(text).digest();
}

// As S3 writes a key: each byte but these, the slashes stay. $uri is decoded once, as S3 does it.
function canonical(uri) {
  return uri.split('/').map(part => encodeURIComponent(part).replace(
    /[!'()*]/g, letter => '%' + letter.charCodeAt(0).toString(16).toUpperCase())).join('/');
}

function path(r) {
  return canonical(r.variables.uri);
}

function date(r) {
  return new Date().toISOString().replace(/[-:]|\.\d+/g, '');
}

function token(r) {
  return credentials()[2] || '';
}

function authorization(r) {
  const keys = credentials();
  const when = r.variables.lazysif_s3_date, day = when.slice(0, 8);
  const scope = [day, r.variables.lazysif_s3_region, 's3', 'aws4_request'];
  const headers = [['host', r.variables.lazysif_host], ['x-amz-content-sha256', 'UNSIGNED-PAYLOAD'], ['x-amz-date', when]];
  if (keys[2]) headers.push(['x-amz-security-token', keys[2]]);
  const names = headers.map(header => header[0]).join(';');
  const request = [r.method, r.variables.lazysif_s3_path, '', headers.map(header => header.join(':') + '\n').join(''),
    names, 'UNSIGNED-PAYLOAD'].join('\n');
  const digest = crypto.createHash('sha256').update(request).digest('hex');
  const signing = scope.reduce(hmac, 'AWS4' + keys[1]);
  const signature = hmac(signing, ['AWS4-HMAC-SHA256', when, scope.join('/'), digest].join('\n')).toString('hex');
  return 'AWS4-HMAC-SHA256 Credential=' + keys[0] + '/' + scope.join('/') + ', SignedHeaders=' + names +
    ', Signature=' + signature;
}

export default { authorization, date, path, token };
