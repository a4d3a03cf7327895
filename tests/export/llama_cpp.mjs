// Asks the real llama.cpp (npm node-llama-cpp) what it makes of a GGUF file.
// stdin:  {"file", "texts": [text], "prompts": [[id]], "tokens": n, "prefixed": a blank is put before a text}
// stdout: {"ids": [[id]], "greedy": [[id]], "probabilities": [{id: p}], "special": {"bos", "eos", "eot"}, "add_bos"}
import {readFileSync} from "node:fs";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const require = createRequire(process.argv[2] + "/package.json");
const {getLlama} = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);
const {file, texts, prompts, tokens, prefixed} = JSON.parse(readFileSync(0, "utf8"));

const llama = await getLlama({gpu: false, build: "never", progressLogs: false, logLevel: "error", maxThreads: 1});
const model = await llama.loadModel({modelPath: file, gpuLayers: 0});
// Keys and values in f32: the default, f16, moves near ties.
const context = await model.createContext({contextSize: Math.min(model.trainContextSize, 512), flashAttention: false, experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"});
const sequence = context.getSequence();
const greedy = [], probabilities = [];
for (const prompt of prompts) {
    await sequence.clearHistory();
    const found = [];
    for await (const each of sequence.evaluateWithMetadata(prompt, {probabilities: true}, {temperature: 0, yieldEogToken: true})) {
        if (found.length === 0) probabilities.push(Object.fromEntries([...each.probabilities].slice(0, 50)));
        found.push(each.token);
        if (found.length >= tokens || model.isEogToken(each.token)) break;
    }
    greedy.push(found);
}
process.stdout.write(JSON.stringify({
    ids: texts.map((text) => [...model.tokenize(text, false, prefixed ? undefined : "trimLeadingSpace")]),
    greedy,
    probabilities,
    special: {bos: model.tokens.bos, eos: model.tokens.eos, eot: model.tokens.eot},
    add_bos: model.tokens.shouldPrependBosToken,
}));
await llama.dispose();
