"""Small web pages for people: nothing inline runs, nothing foreign is loaded, and a policy says so."""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import urlsplit

from lowtide.kernel.http import Response

STYLE = """
:root{color-scheme:light dark;--back:#eef3f6;--card:#fff;--ink:#12242f;--soft:#546a77;--line:#d5dfe5;
--tide:#0b6e8f;--on:#fff;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--back:#0b161c;--card:#13222a;--ink:#e8f0f4;--soft:#9db2bd;--line:#274050;
--tide:#5cc3e3;--on:#06222d;--bad:#ffb4ab}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;min-height:100svh;display:grid;place-items:center;padding:1.25rem;background:var(--back);
color:var(--ink);font:1.0625rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{width:100%;max-width:26rem;background:var(--card);border:1px solid var(--line);border-radius:1.25rem;
padding:2rem 1.5rem;box-shadow:0 1px 2px #0001,0 12px 32px #0000000f}
main.wide{max-width:46rem}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .5rem;letter-spacing:-.01em}
p{margin:.5rem 0}
.soft{color:var(--soft);font-size:.9375rem}
dl{margin:1.25rem 0;display:grid;grid-template-columns:auto 1fr;gap:.25rem 1rem;font-size:.9375rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
form{margin:1.25rem 0 0;display:grid;gap:.75rem}
button{font:inherit;font-weight:600;min-height:3.25rem;border-radius:.875rem;border:0;background:var(--tide);
color:var(--on);cursor:pointer}
button.plain{background:none;color:var(--soft);border:1px solid var(--line);font-weight:400}
button:hover,a.way:hover{filter:brightness(1.08)}
.way,button.way{display:flex;align-items:center;justify-content:center;gap:.625rem;min-height:3.25rem;width:100%;
padding:.5rem 1rem;border-radius:.875rem;border:1px solid var(--line);background:var(--back);color:var(--ink);
font-weight:600;text-decoration:none;font-size:1rem;text-wrap:balance}
.way svg,.way span{flex:none}
a.way span{display:grid;place-items:center;width:1.5rem;height:1.5rem;border-radius:50%;background:var(--ink);
color:var(--card);font-size:.8125rem}
section>.way{margin-top:.75rem}section form{margin-top:0}section .bad{margin:0}
section .bad:empty{display:none}
.or{display:flex;align-items:center;gap:.75rem;margin:.75rem 0 1rem;color:var(--soft);font-size:.9375rem}
.or::before,.or::after{content:"";flex:1;height:1px;background:var(--line)}
[hidden]{display:none!important}
button:focus-visible,a:focus-visible{outline:3px solid var(--tide);outline-offset:2px}
.numbers{display:grid;grid-template-columns:repeat(3,1fr);gap:.75rem}
.numbers button{font-size:1.375rem;font-variant-numeric:tabular-nums}
.mark{width:3rem;height:3rem;border-radius:1rem;display:grid;place-items:center;background:var(--tide);color:var(--on);
font-size:1.5rem;font-weight:700;margin:0 0 1.25rem}
article{border-top:1px solid var(--line);padding:1.25rem 0}
article h2{font-size:1.0625rem;margin:0}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:inherit;margin:.75rem 0;padding:.875rem 1rem;
border-radius:.75rem;background:var(--back)}
a{color:var(--tide)}
label{font-size:.9375rem;color:var(--soft)}
input{font:inherit;width:100%;min-height:3.25rem;padding:.5rem 1rem;margin-top:.25rem;border-radius:.875rem;
border:1px solid var(--line);background:var(--back);color:var(--ink)}
input.code{font-size:1.5rem;letter-spacing:.2em;text-align:center;font-variant-numeric:tabular-nums}
input:focus-visible,summary:focus-visible{outline:3px solid var(--tide);outline-offset:2px}
.bad{color:var(--bad);font-weight:600}
.good{color:var(--tide);font-weight:600}
.foot{margin-top:1.5rem;padding-top:1rem;border-top:1px solid var(--line);text-align:center;
font-size:.9375rem}
.foot a{display:inline-block;padding:.75rem}
.shown{font-size:1.375rem;font-variant-numeric:tabular-nums}
ul{padding-left:1.25rem;margin:1rem 0}li{margin:.375rem 0}
details label,details button{display:block;width:100%}details button{margin-top:.75rem}
summary{cursor:pointer;color:var(--soft);font-size:.9375rem;padding:.75rem 0}
"""

_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


def page(
    title: str,
    body: str,
    *,
    status: int = 200,
    wide: bool = False,
    leads_to: str = "",
    script: str = "",
) -> Response:
    """A whole page. ``body`` is HTML: whatever came from outside has gone through ``escaped``.

    ``leads_to``: an address to which a form's answer may send the browser on. ``script``: the whole address
    of the one file that may run, if any.
    """
    policy = POLICY.replace("'self'", f"'self'{_source(leads_to)}")
    run = f'<script src="{escaped(urlsplit(script).path)}" defer></script>' if script else ""
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="robots" content="noindex"><title>{escaped(title)}</title><style>{STYLE}</style>'
        f"{run}</head><body><main{' class=wide' if wide else ''}>{body}</main></body></html>"
    )
    return Response(
        body=text.encode(),
        status=status,
        media_type="text/html; charset=utf-8",
        headers={
            "content-security-policy": f"{policy}; script-src {script}" if script else policy,
            "x-frame-options": "DENY",
            "cross-origin-opener-policy": "same-origin",
            # With no-referrer, browsers send forms with 'Origin: null', which could be anybody's.
            "referrer-policy": "same-origin",
        },
    )


def _source(address: str) -> str:
    """``address`` as a policy names where it is: browsers check the redirects after a form, too."""
    if not address:
        return ""
    parts = urlsplit(address)
    # A policy cannot name an IPv6 address.
    if parts.scheme in ("https", "http") and not parts.netloc.startswith("["):
        return f" {parts.scheme}://{parts.netloc}"
    return f" {parts.scheme}:"


_ESCAPED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})


def escaped(text: str) -> str:
    """``text`` as it may stand in HTML, in an attribute too."""
    # As html.escape does, which would bring a table of all 2,231 entities into memory.
    return text.translate(_ESCAPED)
