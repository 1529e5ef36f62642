// Uses an exported page in headless Chromium as a visitor would.
//
//   node browse_page.mjs ADDRESS OUT PICTURE...
//
// Has the page segment its sample, each PICTURE and what a made-up camera shows,
// saves the label maps and screenshots to OUT, and prints what it saw as JSON.
// Of the network, it reaches 127.0.0.1 alone. It is run in a folder where npm
// has installed puppeteer-core and @sparticuz/chromium.

import {basename} from "node:path";

import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";

const [address, out, ...pictures] = process.argv.slice(2);
const found = {errors: [], refused: [], answers: {}};
const browser = await puppeteer.launch({
  executablePath: await chromium.executablePath(),
  headless: "shell",
  args: [
    "--no-sandbox",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
  ],
});
const page = await browser.newPage();
page.setDefaultTimeout(300_000);
page.on("console", (message) => {
  if (["error", "warn"].includes(message.type())) {
    found.errors.push(message.text());
  }
});
page.on("pageerror", (error) => found.errors.push(error.message));
page.on("requestfailed", (request) => found.refused.push(request.url()));
const session = await browser.target().createCDPSession();
await session.send("Browser.setDownloadBehavior", {
  behavior: "allow", downloadPath: out, eventsEnabled: true,
});

const text = (id) => page.$eval(`#${id}`, (shown) => shown.innerText);
const status = (start) => page.waitForFunction(
  (start) => document.getElementById("status").textContent.startsWith(start)
    && !document.querySelector("#frame.busy"), {}, start);

async function save(name) {
  const saved = new Promise((resolve) => session.on(
    "Browser.downloadProgress",
    ({state}) => state === "completed" && resolve()));
  await page.click("#save");
  await saved;
  const names = ["title", "network", "status", "time", "size", "legend",
    "absent", "license", "source", "proof", "limits"];
  const told = names.map(async (id) => [id, await text(id)]);
  found.answers[name] = Object.fromEntries(await Promise.all(told));
}

async function shoot(name, width, height, scheme) {
  await page.setViewport({width, height});
  await page.emulateMediaFeatures([
    {name: "prefers-color-scheme", value: scheme},
  ]);
  await page.screenshot({path: `${out}/${name}.png`, fullPage: true});
}

await page.setViewport({width: 1280, height: 900});
await page.goto(address);
await status("sample.jpg");
await save("sample.jpg");
await shoot("desktop", 1280, 900, "light");
await shoot("dark", 1280, 900, "dark");
await shoot("narrow", 390, 844, "light");
for (const picture of pictures) {
  await (await page.$("#file")).uploadFile(picture);
  await status(basename(picture));
  await save(basename(picture));
}
await shoot("picture", 1280, 900, "light");
await page.click("#camera");
await status("The camera is on");
await page.click("#camera");
await status("The last picture");
await save("camera");
found.elements = await page.$$eval("script, img, b", (all) => all.length);
console.log(JSON.stringify(found));
await browser.close();
