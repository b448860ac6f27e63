"""The pages on which a step of user-interactive authentication is done in a browser, and that of a
login.

Plain HTML; the only script is the one that the specification wants, allowed by its hash. What a
page shows does not depend on the session, so it tells nothing of it.
spec: client-server-api#fallback and client-server-api#login-fallback
"""

from html import escape
from secrets import token_urlsafe

from client_api.pages import page
from homeserver.errors import MatrixError
from homeserver.http.endpoint import Call, NoAuth, endpoint
from homeserver.http.shape import Form, Html, Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.users.uia import DUMMY, EMAIL, PASSWORD, REGISTRATION_TOKEN, TERMS
from homeserver.users.validations import PATH as VALIDATE

_MAIL = "/_homeserver/mail/step"
_FALLBACK = f"/_matrix/client/v3/auth/{EMAIL}/fallback/web"
_DONE = (
    "if(window.onAuthDone){window.onAuthDone()}"
    'else if(window.opener&&window.opener.postMessage){window.opener.postMessage("authDone","*")}'
)
_LOGIN = (
    "document.forms[0].onsubmit=async e=>{e.preventDefault();const f=new FormData(e.target),"
    "s=document.getElementById('s'),b=Object.fromEntries(new URLSearchParams(location.search));"
    "if(b.refresh_token)b.refresh_token=b.refresh_token==='true';"
    "b.type='m.login.password';b.identifier={type:'m.id.user',user:f.get('user')};"
    "b.password=f.get('password');"
    "try{const r=await fetch('/_matrix/client/v3/login',{method:'POST',body:JSON.stringify(b)}),"
    "a=await r.json();if(!r.ok){s.textContent=a.error;return}"
    "s.textContent='You are logged in.';"
    "if(window.matrixLogin&&window.matrixLogin.onLogin)window.matrixLogin.onLogin(a)}"
    "catch{s.textContent='The server could not be reached.'}}"
)


class SessionQuery(Shape):
    session: str


class StepForm(Form):
    session: str
    token: str | None = None
    password: str | None = None
    sid: str | None = None
    client_secret: str | None = None

    def given(self) -> JsonObject:
        """What a client would put in `auth`."""
        given: JsonObject = {"token": self.token, "password": self.password}
        if self.sid is not None:
            given["threepid_creds"] = {"sid": self.sid, "client_secret": self.client_secret}
        return {key: value for key, value in given.items() if value is not None}


@endpoint(
    "GET /_matrix/client/v3/auth/{stage}/fallback/web",
    spec="client-server-api#fallback",
    auth=NoAuth(),
)
async def show_step(call: Call, stage: str, query: SessionQuery) -> Html:
    """The page for a stage."""
    return _step(call, stage, query.session)


@endpoint(
    "POST /_matrix/client/v3/auth/{stage}/fallback/web",
    spec="client-server-api#fallback",
    auth=NoAuth(),
    limit="login_address",
)
async def take_step(call: Call, stage: str, body: StepForm) -> Html:
    """What somebody did on the page for a stage."""
    try:
        await call.app.interactive.fallback(body.session, stage, body.given())
    except MatrixError as error:
        if stage == EMAIL and body.sid is not None and error.status == 401:
            return _mailed(body.session, body.sid, body.client_secret or "", error)
        return _step(call, stage, body.session, error)
    return page("Done", "<p>You can go back to your app now.</p>", _DONE)


class MailForm(Form):
    session: str
    email: str


@endpoint(f"POST {_MAIL}", spec="client-server-api#fallback", auth=NoAuth(), limit="mail")
async def mail_link(call: Call, body: MailForm) -> Html:
    """Mail a link to the address that somebody named on the page of that stage."""
    secret = token_urlsafe(24)
    try:
        purpose = await call.app.interactive.mail_purpose(body.session)
        sid = await call.app.third_party_ids.request(purpose, body.email, secret, 1, None)
    except MatrixError as error:
        return _step(call, EMAIL, body.session, error)
    return _mailed(body.session, sid, secret)


class LinkQuery(Shape):
    sid: str
    client_secret: str
    token: str


class LinkForm(Form):
    sid: str
    client_secret: str
    token: str


@endpoint(f"GET {VALIDATE}", spec="", auth=NoAuth(), limit="login_address")
async def follow_link(call: Call, query: LinkQuery) -> Html:
    """The page behind a link that was mailed; a new password takes one more click.

    Programs that look at mail open links by themselves: that must not give an account away.
    """
    link = (query.sid, query.client_secret, query.token)
    try:
        if await call.app.validations.purpose(*link) != "password":
            return await _validated(call, *link)
    except MatrixError as error:
        return page("This link is not good any more", f"<p>{escape(error.message)}</p>", status=400)
    fields = "".join(
        f'<input type=hidden name={name} value="{escape(value)}">'
        for name, value in zip(("sid", "client_secret", "token"), link, strict=True)
    )
    button = "<p><button>It was me: let me set a new password</button>"
    return page("Set a new password", f"<form method=post>{fields}{button}</form>")


@endpoint(f"POST {VALIDATE}", spec="", auth=NoAuth(), limit="login_address")
async def confirm_link(call: Call, body: LinkForm) -> Html:
    """The click that a new password takes."""
    try:
        return await _validated(call, body.sid, body.client_secret, body.token)
    except MatrixError as error:
        return page("This link is not good any more", f"<p>{escape(error.message)}</p>", status=400)


async def _validated(call: Call, sid: str, secret: str, token: str) -> Html:
    next_link = await call.app.validations.confirm(sid, secret, token)
    inside = "<p>Your address is confirmed. You can go back to your app now.</p>"
    if next_link is not None:
        inside += f'<p><a rel=noreferrer href="{escape(next_link)}">Go on</a></p>'
    return page("Done", inside)


@endpoint(
    "GET /_matrix/static/client/login/",
    spec="client-server-api#login-fallback",
    auth=NoAuth(),
)
async def show_login(call: Call) -> Html:
    """A page that logs in, for clients that know none of the ways to do it."""
    server = escape(call.app.config.server.name)
    return page(
        f"Log in to {server}",
        "<form method=post><p><label>User name<br><input name=user autocomplete=username required>"
        "</label><p><label>Password<br><input name=password type=password required "
        "autocomplete=current-password></label><p><button>Log in</button></form><p id=s></p>",
        _LOGIN,
        connects=True,
    )


def _step(call: Call, stage: str, session: str, error: MatrixError | None = None) -> Html:
    told = f"<p><strong>{escape(error.message)}</strong></p>" if error is not None else ""
    fields = f'<input type=hidden name=session value="{escape(session)}">'
    action = ""
    if stage == DUMMY:
        title, inside = "One more step", "<p><button>Go on</button>"
    elif stage == TERMS:
        documents = _documents(call.app.registration.policies)
        title = "What you have to accept"
        inside = f"<ul>{documents}</ul><p><button>I accept</button>"
    elif stage == REGISTRATION_TOKEN:
        title = "Your invitation"
        inside = (
            "<p><label>Registration token<br><input name=token required maxlength=64></label>"
            "<p><button>Go on</button>"
        )
    elif stage == PASSWORD:
        title = "Your password"
        inside = (
            "<p><label>Password<br><input name=password type=password required "
            "autocomplete=current-password></label><p><button>Go on</button>"
        )
    elif stage == EMAIL:
        title, action = "Your mail address", f' action="{_MAIL}"'
        inside = (
            "<p><label>Mail address<br><input name=email type=email required maxlength=500 "
            "autocomplete=email></label><p><button>Send me a link</button>"
        )
    else:
        raise MatrixError("M_UNRECOGNIZED", "There is no page for this stage", 404)
    status = 200 if error is None else error.status
    return page(title, f"{told}<form method=post{action}>{fields}{inside}</form>", status=status)


def _mailed(session: str, sid: str, secret: str, error: MatrixError | None = None) -> Html:
    """The page of the mail stage once a link is on its way."""
    told = f"<p><strong>{escape(error.message)}</strong></p>" if error is not None else ""
    fields = "".join(
        f'<input type=hidden name={name} value="{escape(value)}">'
        for name, value in (("session", session), ("sid", sid), ("client_secret", secret))
    )
    return page(
        "Look into your mail",
        f"{told}<p>A link is on its way to you. Follow it, then go on here.</p>"
        f'<form method=post action="{_FALLBACK}">{fields}<p><button>Go on</button></form>',
        status=200 if error is None else error.status,
    )


def _documents(policies: JsonObject) -> str:
    texts = [
        (language, text)
        for policy in policies.values()
        for language, text in policy.items()
        if language != "version"
    ]
    return "".join(
        f'<li><a target=_blank rel=noreferrer lang="{escape(language)}"'
        f' href="{escape(text["url"])}">{escape(text["name"])}</a> ({escape(language)})'
        for language, text in texts
    )
